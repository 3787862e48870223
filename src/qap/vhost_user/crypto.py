"""A host for vhost-user-crypto: it ciphers with AES in CBC mode.

The description of a session is VhostUserCryptoSession of QEMU's hw/virtio/vhost-user.c, as the C
compiler of a 64-bit host lays it out; no specification has it.
"""

import struct
from dataclasses import dataclass
from itertools import count

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from qap.vhost_user.chain_service import Ends

# virtio 1.3, 5.9.7.2.1: creation of a session, and its fields.
CIPHER_CREATE_SESSION = 0x0002
OP_CIPHER = 1
AES_CBC = 3
ENCRYPT, DECRYPT = 1, 2

# op_code; cipher_alg, key_len, four lengths of a hash; op_type, direction, two of a hash; two
# pointers of QEMU's own; then the key. It ends with the session's id.
_SESSION = struct.Struct("=QII16xBBxx4x16x")
KEY_SIZE = 64
KEY_SIZES = (16, 24, 32)  # of AES, in bytes
SESSION_SIZE = 1072
REFUSED = -1

# 5.9.7.4: a request is a header, parameters (5.9.7.4.1.1), the IV, the data and their destination,
# and ends with a status.
CIPHER_ENCRYPT, CIPHER_DECRYPT = 0x0000, 0x0001
_REQUEST = struct.Struct("<IIQ8xII4x4x24xI4x")
OK, ERR, NOTSUPP, INVSESS = 0, 1, 3, 4
BLOCK = 16


@dataclass(frozen=True)
class _CipherSession:
    key: bytes
    direction: int


class CryptoHost:
    """A `SessionService` of a crypto device.

    Attributes:
        ciphered: bytes that it has enciphered or deciphered.
    """

    def __init__(self) -> None:
        self.ciphered = 0
        self._numbers = count(1)
        self._sessions: dict[int, _CipherSession] = {}

    @property
    def sessions(self) -> int:
        """How many are open."""
        return len(self._sessions)

    def create(self, description: bytes) -> int:
        """Open a session; returns its id, or REFUSED."""
        if len(description) != SESSION_SIZE:
            return REFUSED
        opcode, algorithm, key_size, kind, direction = _SESSION.unpack_from(description)
        wanted = (CIPHER_CREATE_SESSION, AES_CBC, OP_CIPHER)
        if (opcode, algorithm, kind) != wanted or direction not in (ENCRYPT, DECRYPT):
            return REFUSED
        if key_size not in KEY_SIZES:
            return REFUSED
        key = description[_SESSION.size : _SESSION.size + key_size]
        number = next(self._numbers)
        self._sessions[number] = _CipherSession(key, direction)
        return number

    def close(self, session: int) -> None:
        """Close a session, if it is open."""
        self._sessions.pop(session, None)

    def __call__(self, queue: int, readable: bytes, room: int) -> Ends:
        """See `ChainService`. The buffer of the result may be longer than that."""
        status, data = self._serve(readable)
        return Ends(data[: max(0, room - 1)], bytes([status])[:room])

    def _serve(self, request: bytes) -> tuple[int, bytes]:
        if len(request) < _REQUEST.size:
            return ERR, b""
        opcode, _, number, iv_size, size, kind = _REQUEST.unpack_from(request)
        if opcode not in (CIPHER_ENCRYPT, CIPHER_DECRYPT) or kind != OP_CIPHER:
            return NOTSUPP, b""
        session = self._sessions.get(number)
        if session is None:
            return INVSESS, b""
        iv, data = request[_REQUEST.size :][:iv_size], request[_REQUEST.size + iv_size :][:size]
        if session.direction != (ENCRYPT if opcode == CIPHER_ENCRYPT else DECRYPT):
            return ERR, b""
        if len(iv) != BLOCK or len(data) != size or size % BLOCK:
            return ERR, b""
        cipher = Cipher(algorithms.AES(session.key), modes.CBC(iv))
        worker = cipher.encryptor() if opcode == CIPHER_ENCRYPT else cipher.decryptor()
        self.ciphered += size
        return OK, worker.update(data) + worker.finalize()
