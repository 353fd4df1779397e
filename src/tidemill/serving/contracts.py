"""What a hosting platform asks of a container: where it listens, and on which paths it is asked and looked after.

Sources: Amazon SageMaker, "Use Your Own Inference Code with Hosting Services"; Vertex AI, "Custom container requirements for
inference"; Azure Machine Learning, "Deploy a custom container to an online endpoint" and its inference HTTP server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tidemill.core.errors import ConfigError, not_found

NAMES = ("sagemaker", "vertex", "azureml")
_PORTS = {"sagemaker": "SAGEMAKER_BIND_TO_PORT", "vertex": "AIP_HTTP_PORT"}
_DEFAULTS = {"sagemaker": 8080, "vertex": 8080, "azureml": 5001}


@dataclass(frozen=True, slots=True)
class Contract:
    """One platform's. The platform checks who asks, so predictions by its own path are answered without a token; all else wants one."""

    name: str
    port: int
    health: str
    predict: str
    host: str = "0.0.0.0"  # noqa: S104 - the platform reaches a container from outside; only its own paths are open


def contract_of(name: str, environment: Mapping[str, str]) -> Contract:
    """The contract of a platform, with what the platform says in the environment.

    Raises:
        NotFoundError: no platform has this name.
        ConfigError: a variable is no port or no path; names it.
    """
    if name not in NAMES:
        raise not_found("contract (serving.contract)", name, NAMES)
    port = _port(environment, _PORTS.get(name, ""), _DEFAULTS[name])
    if name == "sagemaker":
        return Contract(name, port, "/ping", "/invocations")
    if name == "azureml":
        return Contract(name, port, "/", "/score")
    endpoint, model = (environment.get(key, "default") for key in ("AIP_ENDPOINT_ID", "AIP_DEPLOYED_MODEL_ID"))
    base = f"/v1/endpoints/{endpoint}/deployedModels/{model}"
    return Contract(name, port, _path(environment, "AIP_HEALTH_ROUTE", base), _path(environment, "AIP_PREDICT_ROUTE", f"{base}:predict"))


def _port(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, "") or str(default)
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise ConfigError(f"the environment variable {name} is {text!r}; it must be a port, 1 to 65535")
    return int(text)


def _path(environment: Mapping[str, str], name: str, default: str) -> str:
    text = environment.get(name, "") or default
    if not text.startswith("/") or "{" in text or "?" in text:
        raise ConfigError(f"the environment variable {name} is {text!r}; it must be a path that begins with /")
    return text.rstrip("/") or "/"
