"""What the addresses of a vhost-user front-end mean."""

import pytest

from qap.oracle.addresses import Space, of_buffers, of_rings, of_translations


@pytest.mark.parametrize(
    ("translating", "gpa_addresses", "rings", "buffers", "translations"),
    [
        (False, False, "uva", "gpa", "uva"),
        (False, True, "gpa", "gpa", "gpa"),
        (True, False, "iova", "iova", "uva"),
        (True, True, "iova", "iova", "gpa"),
    ],
)
def test_addresses(
    translating: bool, gpa_addresses: bool, rings: Space, buffers: Space, translations: Space
) -> None:
    assert of_rings(translating=translating, gpa_addresses=gpa_addresses) == rings
    assert of_buffers(translating=translating) == buffers
    assert of_translations(gpa_addresses=gpa_addresses) == translations
