"""medprov_sdk.names"""

from urllib.parse import urlsplit

import pytest

from medprov_ledger import cid, eip712
from medprov_sdk import names

DOMAIN = eip712.domain(31337, "0x5FbDB2315678afecb367f032d93F642f64180aa3")


def test_names_are_uris() -> None:
    uri = names.thing(DOMAIN, "record", b"r" * 32)
    assert uri == f"did:pkh:eip155:31337:{DOMAIN.registry}#record-0x{(b'r' * 32).hex()}"
    assert urlsplit(uri).fragment == names.local("record", b"r" * 32)
    assert urlsplit(names.content(cid.of(b"x"))).scheme == "ipfs"
    assert urlsplit(names.VOCABULARY).hostname == "medprov.invalid"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "1970-01-01T00:00:00Z"), (1_800_000_000, "2027-01-15T08:00:00Z"), (2**62, None)]
)
def test_times_are_rfc_3339_or_none(seconds: int, text: str | None) -> None:
    assert names.instant(seconds) == text
