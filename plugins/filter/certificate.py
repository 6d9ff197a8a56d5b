# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a certificate is for, until when, and whether a key and an authority are its own."""

from __future__ import annotations

from datetime import datetime, timezone

from ansible.errors import AnsibleFilterError

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
except ImportError:
    x509 = None

DOCUMENTATION = r"""
name: certificate
short_description: What a certificate is for, until when, and whether a key and an authority are its own
version_added: 0.1.0
description:
  - Reads a certificate on the controller, in the place where it is asked, without a task of its own.
requirements:
  - cryptography 42 or newer on the controller (ansible-core brings the newest one)
options:
  _input:
    description: The certificate, in PEM. Of several the first.
    type: str
    required: true
  key:
    description: A private key without a passphrase, in PEM.
    type: str
  authority:
    description: The certificate of an authority, in PEM.
    type: str
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
"""

EXAMPLES = r"""
- name: Check that a certificate lasts for a month
  ansible.builtin.assert:
    that: (lookup('ansible.builtin.file', 'redis.pem') | orbiter.fleet.certificate).days > 30
"""

RETURN = r"""
_value:
  description:
    - C(names), such as C(DNS:redis1) and C(IP:10.0.0.1), sorted; C(ends), in words; C(days) until then, less than 0
      where that is over; C(begun), whether it is valid already.
    - C(fits), whether the key is the certificate's, and C(signed), whether the authority has signed it; false
      where none was given.
  type: dict
"""


def named(name):
    """Return a name of a certificate as openssl writes it."""
    return f"{'IP' if isinstance(name, x509.IPAddress) else 'DNS'}:{name.value}"


def names_of(found):
    """Return the names that a certificate is for."""
    try:
        return sorted(
            named(name) for name in found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        )
    except x509.ExtensionNotFound:
        return []


def is_signed(found, authority):
    """Tell whether an authority has signed: by its key, as another one may have the same name."""
    try:
        found.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.encode()))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def certificate(text, key="", authority=""):
    """Return what the documentation promises."""
    if not hasattr(x509, "Certificate") or not hasattr(x509.Certificate, "not_valid_after_utc"):
        raise AnsibleFilterError(
            "To read certificates, the controller's Python needs cryptography 42 or newer: "
            "pip install --upgrade cryptography"
        )
    try:
        found = x509.load_pem_x509_certificate(text.encode())
    except ValueError as error:
        raise AnsibleFilterError(f"This is no certificate in PEM: {error}") from error
    try:
        private = load_pem_private_key(key.encode(), None) if key else None
    except (ValueError, TypeError) as error:
        raise AnsibleFilterError(f"This is no private key in PEM without a passphrase: {error}") from error
    now = datetime.now(timezone.utc)
    return {
        "names": names_of(found),
        "ends": f"{found.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
        "days": (found.not_valid_after_utc - now).days,
        "begun": found.not_valid_before_utc <= now,
        "fits": private is not None and private.public_key() == found.public_key(),
        "signed": bool(authority) and is_signed(found, authority),
    }


class FilterModule:
    """The filter."""

    def filters(self):
        """Return it by its name."""
        return {"certificate": certificate}
