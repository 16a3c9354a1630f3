// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

/// @title One image's provenance.
interface IRecord {
    /// @notice One image's provenance. Its EIP-712 digest is the record's id and its leaf in a batch.
    /// @param format Version of the record.
    /// @param key Record key, derived from the mark's payload; need not be unique.
    /// @param coverHash Salted hash of the image as the scanner made it.
    /// @param markedHash Content hash of the image with the ownership mark.
    /// @param releasedHash Content hash of the image that leaves the hospital.
    /// @param evidenceCid The sealed evidence.
    /// @param bundleCid The sealed bundle; empty where there is none.
    /// @param owner The hospital.
    /// @param model SHA-256 of the weights that marked the image.
    /// @param time When the owner sealed the record, as the owner says.
    struct Record {
        uint16 format;
        bytes32 key;
        bytes32 coverHash;
        bytes32 markedHash;
        bytes32 releasedHash;
        string evidenceCid;
        string bundleCid;
        address owner;
        bytes32 model;
        uint64 time;
    }
}
