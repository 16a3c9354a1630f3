#!/usr/bin/env node
// Makes npm's WebAssembly solc answer like the native program, as far as py-solc-x asks:
//   --version
//   --standard-json [--base-path DIR] [--allow-paths ...] < input > output
// npm's own `solcjs` cannot stand in: it reads a piped stdin without blocking and fails with EAGAIN.
'use strict';

const fs = require('fs');
const path = require('path');
const solc = require(path.join(__dirname, 'node_modules', 'solc'));

const IMPORT_ROOTS = [__dirname, path.join(__dirname, 'node_modules')];

function readImport(name) {
  for (const root of IMPORT_ROOTS) {
    const file = path.resolve(root, name);
    // an import may not climb out of the folder it was found in
    if (!file.startsWith(root + path.sep)) continue;
    if (fs.existsSync(file)) return { contents: fs.readFileSync(file, 'utf8') };
  }
  return { error: `not found: ${name}` };
}

function writeAll(text) {
  const bytes = Buffer.from(text);
  let done = 0;
  while (done < bytes.length) {
    try {
      done += fs.writeSync(1, bytes, done);
    } catch (error) {
      // the pipe is full; the reader will empty it
      if (error.code !== 'EAGAIN') throw error;
    }
  }
}

const options = process.argv.slice(2);
if (options.includes('--version')) {
  writeAll(`solc, the solidity compiler commandline interface\nVersion: ${solc.version()}\n`);
} else if (options.includes('--standard-json')) {
  const input = fs.readFileSync(0, 'utf8'); // descriptor 0: process.stdin would be non-blocking
  writeAll(solc.compile(input, { import: readImport }));
} else {
  process.stderr.write(`solc-wrapper: only --version and --standard-json, not ${options.join(' ')}\n`);
  process.exitCode = 1;
}
