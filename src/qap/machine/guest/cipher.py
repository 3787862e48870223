"""A cipher that a virtio-crypto device computes for a guest."""

from qap.host.errors import QapError
from qap.machine.guest.console import Console
from qap.machine.guest.tools import mounted

# FIPS 197, appendix C.1.
KEY = "000102030405060708090a0b0c0d0e0f"
PLAIN = "00112233445566778899aabbccddeeff"
CIPHER = "69c4e0d86a7b0430d8cdb78070b4c55a"
# Of the kernel's driver for the device, in /proc/crypto.
ALGORITHM = "virtio_crypto_aes_cbc"
# accept4(2), which perl can only call with room for an address: AF_ALG has none. By Debian's name
# of the architecture.
ACCEPT4 = {"amd64": 288, "s390x": 364}
# linux/if_alg.h: struct sockaddr_alg. With no ALG_SET_OP and no ALG_SET_IV it deciphers, and the
# initialization vector is zero.
CLIENT = """
socket(S, 38, 5, 0) or die "socket: $!";
bind(S, pack("S a14 L L a64", 38, "skcipher", 0, 0, shift)) or die "bind: $!";
setsockopt(S, 279, 1, pack("H*", shift)) or die "key: $!";
$fd = syscall(shift, fileno(S), 0, 0, 0);
open(O, "+<&=", $fd) or die "accept: $!";
syswrite(O, pack("H*", shift)) or die "write: $!";
sysread(O, $b, 16) or die "read: $!";
print unpack("H*", $b), "\n";
"""


class WrongCipher(QapError):
    """The device deciphered something to something else."""


def decipher(console: Console, architecture: str) -> list[str]:
    """Have the device decipher a block of AES.

    Args:
        architecture: Debian's name of the guest's.
    Raises:
        WrongCipher: the result is wrong.
        GuestCommandError: the kernel has no such algorithm, or it fails.
    """
    console.check(f'await "grep -q {ALGORITHM} /proc/crypto"')
    with mounted(console) as perl:
        got = console.check(
            f"{perl} -e '{CLIENT}' {ALGORITHM} {KEY} {ACCEPT4[architecture]} {CIPHER}"
        )
    if got != PLAIN:
        raise WrongCipher(f"the device deciphers AES's test vector to {got}")
    return ["the device deciphered the test vector of FIPS 197"]
