"""From `tls` of the configuration to what servers and clients use."""

from __future__ import annotations

import ssl
from pathlib import Path

from tidemill.core.secrets import resolve
from tidemill.platform.config import Config, TlsConfig
from tidemill.serving.tls import Tls, trusting


def tls_of(config: Config, project: Path, *, check: str = "") -> Tls | None:
    """The certificate of the servers; None when there is none to show.

    Args:
        config: of the project.
        project: its folder; paths are from there on.
        check: where a server will listen: prove first that clients will take the certificate there.

    Raises:
        ConfigError: a file that is not there or of another kind, a key of another certificate, a certificate out of its time or for another name.
    """
    given = config.tls
    if not given.cert:
        return None
    password = resolve(given.password, "tls.password") if given.password else None
    made = Tls(_path(project, given.cert), _path(project, given.key), password, _ca(given, project), given.name)
    if check:
        made.check(check)
    return made


def trusted(config: Config, project: Path) -> ssl.SSLContext:
    """What Tidemill's own commands trust when they ask a server. Raises `ConfigError`."""
    return trusting(_ca(config.tls, project))


def address(config: Config, host: str, port: int) -> str:
    """Where a server is asked that listens there."""
    name = (config.tls.name if config.tls.cert else "") or host
    return f"http{'s' if config.tls.cert else ''}://{f'[{name}]' if ':' in name else name}:{port}"


def _ca(given: TlsConfig, project: Path) -> Path | None:
    return _path(project, given.ca) if given.ca else None


def _path(project: Path, text: str) -> Path:
    return (project / Path(text).expanduser()).resolve()
