"""The host behind a vhost-user-crypto, with the layouts of its sessions and requests."""

import struct
from pathlib import Path

import pytest

from qap.vhost_user.backends import backend
from qap.vhost_user.chain_service import Ends
from qap.vhost_user.crypto import (
    CIPHER_DECRYPT,
    CIPHER_ENCRYPT,
    DECRYPT,
    ENCRYPT,
    ERR,
    INVSESS,
    NOTSUPP,
    OK,
    REFUSED,
    SESSION_SIZE,
    CryptoHost,
)

from .front_end import Frontend, R, u64

# NIST SP 800-38A, F.2.1 and F.2.3: AES in CBC mode, the first two blocks.
KEYS = {
    128: "2b7e151628aed2a6abf7158809cf4f3c",
    192: "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
}
IV = "000102030405060708090a0b0c0d0e0f"
PLAIN = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
CIPHERED = {
    128: "7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b2",
    192: "4f021db243bc633d7178183a9fa071e8b4d9ada9ad7dedf4e5e738763f69145a",
}


def description(key: str, direction: int, *, algorithm: int = 3, size: int | None = None) -> bytes:
    """What CREATE_CRYPTO_SESSION brings for a cipher."""
    raw = bytes.fromhex(key)
    # op_code; cipher_alg, key_len, hash_alg, hash_result_len, auth_key_len, add_len; op_type,
    # direction, hash_mode, alg_chain_order; padding; pointers.
    size = len(raw) if size is None else size
    head = struct.pack("=Q6I4B4xQQ", 2, algorithm, size, 0, 0, 0, 0, 1, direction, 0, 0, 1, 1)
    return (head + raw).ljust(SESSION_SIZE, b"\0")


def request(opcode: int, session: int, data: str, *, iv: str = IV) -> bytes:
    """What a driver makes available, without the room for the answer."""
    raw = bytes.fromhex(data)
    size = len(raw)
    head = struct.pack("<IIQII", opcode, 3, session, 0, 0)
    parameters = struct.pack("<IIII24xII", len(iv) // 2, size, size, 0, 1, 0)
    return head + parameters + bytes.fromhex(iv) + raw


@pytest.mark.parametrize("bits", KEYS)
def test_test_vector_goes_both_ways(bits: int) -> None:
    host = CryptoHost()
    there, back = (host.create(description(KEYS[bits], way)) for way in (ENCRYPT, DECRYPT))
    asked, done = PLAIN, CIPHERED[bits]
    assert host(0, request(CIPHER_ENCRYPT, there, asked), 33) == (bytes.fromhex(done), b"\0")
    assert host(0, request(CIPHER_DECRYPT, back, done), 33) == (bytes.fromhex(asked), b"\0")
    assert host.ciphered == 64


def test_result_leaves_the_rest_of_a_long_buffer_alone() -> None:
    """A driver may offer more room than the data take; the status is the last byte of it."""
    host = CryptoHost()
    session = host.create(description(KEYS[128], ENCRYPT))
    assert host(0, request(CIPHER_ENCRYPT, session, PLAIN), 65) == Ends(
        bytes.fromhex(CIPHERED[128]), bytes([OK])
    )


def test_session_is_open_until_it_is_closed() -> None:
    host = CryptoHost()
    session = host.create(description(KEYS[128], ENCRYPT))
    assert host.sessions == 1
    host.close(session)
    host.close(session)
    assert host.sessions == 0
    assert host(0, request(CIPHER_ENCRYPT, session, PLAIN), 33) == (b"", bytes([INVSESS]))


@pytest.mark.parametrize(
    "wrong",
    [
        description(KEYS[128], ENCRYPT)[:-1],
        description(KEYS[128], 3),
        description(KEYS[128], ENCRYPT, algorithm=2),
        description(KEYS[128], ENCRYPT, size=15),
        description(KEYS[128], ENCRYPT, size=64),  # which XTS would take
        description(KEYS[128], ENCRYPT, size=1 << 31),
    ],
)
def test_session_that_it_can_not_serve_is_refused(wrong: bytes) -> None:
    assert CryptoHost().create(wrong) == REFUSED


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (request(CIPHER_ENCRYPT, 1, PLAIN)[:71], ERR),
        (request(CIPHER_ENCRYPT, 1, PLAIN)[:-1], ERR),
        (request(CIPHER_ENCRYPT, 1, PLAIN[:30]), ERR),
        (request(CIPHER_ENCRYPT, 1, PLAIN, iv=IV[:30]), ERR),
        (request(CIPHER_DECRYPT, 1, PLAIN), ERR),
        (request(0x0100, 1, PLAIN), NOTSUPP),
        (request(CIPHER_ENCRYPT, 2, PLAIN), INVSESS),
    ],
)
def test_malformed_request_gets_a_status(asked: bytes, status: int) -> None:
    host = CryptoHost()
    host.create(description(KEYS[128], ENCRYPT))
    assert host(0, asked, 33) == (b"", bytes([status]))
    assert host(0, asked, 0) == (b"", b"")


def test_back_end_hands_it_the_sessions(tmp_path: Path) -> None:
    host = CryptoHost()
    path = tmp_path / "crypto.sock"
    with backend(path, "vhost-user-crypto", access_platform=False, service=host):
        front = Frontend(path)
        asked = description(KEYS[128], ENCRYPT)
        answer = front.ask(R.CREATE_CRYPTO_SESSION, asked)
        assert answer[:-8] == asked[:-8]
        (session,) = struct.unpack("=q", answer[-8:])
        assert (session, host.sessions) == (1, 1)
        refused = front.ask(R.CREATE_CRYPTO_SESSION, description(KEYS[128], 3))
        assert refused[-8:] == struct.pack("=q", REFUSED)
        front.tell(R.CLOSE_CRYPTO_SESSION, u64(session))
        front.ask_u64(R.GET_FEATURES)
        assert host.sessions == 0
        front.close()
