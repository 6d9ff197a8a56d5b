"""How Temporal is reached: the guide's two variables, beside everything that Temporal's own configuration knows."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from temporalio.client import Client
from temporalio.envconfig import ClientConfigProfile
from temporalio.service import TLSConfig

from orbiter.distributed.errors import ConfigurationError
from orbiter.distributed.secrecy import keep_secret

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_HOST = "localhost:7233"
DEFAULT_NAMESPACE = "default"


def connect_options(host: str | None = None, namespace: str | None = None) -> dict[str, Any]:
    """Return what :meth:`Client.connect` is given.

    TLS, API key and the rest come from Temporal's environment configuration: ``TEMPORAL_TLS…``, ``TEMPORAL_API_KEY``,
    or a profile in a file. For the address, an argument goes before ``TEMPORAL_HOST``, that before
    ``TEMPORAL_ADDRESS``.

    Raises:
        ConfigurationError: That configuration cannot be read.
    """
    environment: Mapping[str, str] = os.environ
    try:
        profile = ClientConfigProfile.load(override_env_vars=dict(environment))
        options: dict[str, Any] = dict(profile.to_client_connect_config())
    except (RuntimeError, OSError, ValueError) as error:
        raise ConfigurationError(f"Temporal's configuration (TEMPORAL_… variables or file): {error}") from error
    keep_secret(options.get("api_key"))
    if isinstance(tls := options.get("tls"), TLSConfig) and tls.client_private_key:
        keep_secret(tls.client_private_key.decode("ascii", "replace"))
    options["target_host"] = host or environment.get("TEMPORAL_HOST") or options.get("target_host") or DEFAULT_HOST
    options["namespace"] = namespace or options.get("namespace") or DEFAULT_NAMESPACE
    return options


async def connect(options: Mapping[str, Any], *, identity: str | None = None) -> Client:
    """Connect.

    Raises:
        RuntimeError: Temporal cannot be reached.
    """
    return await Client.connect(**options, identity=identity)
