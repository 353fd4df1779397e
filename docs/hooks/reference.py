"""Writes docs/reference/*.md from the code; a test keeps the committed pages equal to what this makes.

python docs/hooks/reference.py
"""

import ast
import inspect
import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import click

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src" / "tidemill"
NOTE = "<!-- written by docs/hooks/reference.py; change the code, then run `make reference` -->\n"


def pages() -> dict[str, str]:
    """Every generated page: its file's name and its text."""
    return {
        "cli.md": cli(),
        "config.md": config(),
        "errors.md": errors(),
        "ports.md": ports(),
        "http-api.md": http_api(),
        "support-matrix.md": support(),
    }


def support() -> str:
    """What can stand behind each port: what comes along, and what an extra brings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    out = ["# Support matrix", NOTE, "The scheme of a URL in `stack` chooses what stands behind a [port](ports.md).\n"]
    out.append("| setting | scheme | comes with |\n|---|---|---|")
    adapters = {name.partition(".")[2]: entries for name, entries in project["entry-points"].items() if name.startswith("tidemill.")}
    adapters.pop("protocol")
    embedded = _embedded()
    for setting in dict.fromkeys((*embedded, *adapters)):
        if setting in ("exports", "flavors", "readers"):
            continue
        named = "`source` of a table" if setting == "sources" else f"`stack.{setting}`"
        out += [f"| {named} | `{scheme}:` | `pip install tidemill` |" for scheme in embedded.get(setting, ())]
        for scheme, place in adapters.get(setting, {}).items():
            extra = place.removeprefix("tidemill.adapters.").partition(".")[0]
            out.append(f"| {named} | `{scheme}:` | `pip install 'tidemill[{extra}]'` |")
    out += _spoken()
    return "\n".join([*out, *_models(adapters)]) + "\n"


def _models(adapters: dict[str, dict[str, str]]) -> list[str]:
    """Which models can be trained and served."""
    out = ["\n## Models\n", "Chosen by the flavor in the artifact's `MLmodel`; see [how](../how-to/models-of-other-libraries.md).\n"]
    out.append("| flavor | trained by | comes with |\n|---|---|---|")
    out += ["| `onnx`, `lightgbm` | `tm.lightgbm_model`, `tm.onnx_model` | `pip install tidemill` |"]
    for flavor, place in adapters["readers"].items():
        folder = place.removeprefix("tidemill.adapters.").partition(".")[0]
        extra = f"'tidemill[{folder}]'" if folder != "function" else "tidemill"
        out.append(f"| `{flavor}` | `tm.{folder}_model` | `pip install {extra}` |")
    names = ", ".join(f"`{name}`" for name in adapters["exports"])
    out.append("\n## Ways out\n")
    out.append(f"`tidemill export --to …` ([how](../how-to/export-to-a-framework.md)) writes applications for {names}.")
    out.append("`tidemill build` ([how](../how-to/build-an-image.md)) writes the context of a container image.")
    return out


def _spoken() -> Iterator[str]:
    from tidemill.serving.protocols import PROTOCOLS

    yield "\n## Protocols of the model server\n"
    yield "[The model server](http-api.md#the-model-server) answers all of these on one port; gRPC has one of its own.\n"
    yield "| protocol | paths | comes with |\n|---|---|---|"
    for protocol in PROTOCOLS:
        yield f"| {protocol.name} | {protocol.paths} | `pip install tidemill` |"
    yield "| Open Inference Protocol v2 over gRPC | `inference.GRPCInferenceService`, at `serving.grpc_port` | `pip install 'tidemill[grpc]'` |"
    yield "| Feast's feature server | `/get-online-features`, `/push`, `/write-to-online-store` | `pip install tidemill` |"


def _embedded() -> dict[str, list[str]]:
    """The schemes that the composition root opens itself, by setting, and those of sources."""
    from tidemill.ingestion.embedded.open import SCHEMES

    found: dict[str, list[str]] = {"sources": list(SCHEMES)}
    for node in ast.walk(ast.parse((SRC / "platform" / "root.py").read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "_port":
            names = [k.arg for k in node.keywords if k.arg]
            names += [c.value for k in node.keywords if not k.arg for c in ast.walk(k.value) if isinstance(c, ast.Constant)]
            assert isinstance(node.args[0], ast.Constant)
            found[str(node.args[0].value)] = [str(n) for n in names]
    return found


def cli() -> str:
    """The command line: every command with its arguments and options."""
    from tidemill.cli.app import COMMANDS
    from tidemill.cli.app import cli as root

    out = ["# Command line", NOTE, "Every command works on the project at or above the current folder, or on `--project`."]
    out.append("Listings take `--json`; times are ISO 8601 and mean UTC without a zone; progress bars go to standard error.\n")
    out.append("| command | does |\n|---|---|")
    out += [f"| [`{name}`](#tidemill-{name}) | {text} |" for name, (_, text) in COMMANDS.items()]
    context = click.Context(root, info_name="tidemill")
    for name in COMMANDS:
        command = root.get_command(context, name)
        assert command is not None
        out += _command(command, f"tidemill {name}", 2)
    return "\n".join(out) + "\n"


def _command(command: click.Command, path: str, level: int) -> Iterator[str]:
    yield f"\n{'#' * level} {path}\n"
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    words = [_argument(p) for p in arguments]
    group = " [COMMAND]" if isinstance(command, click.Group) else ""
    yield "```text\n" + " ".join([path, *(["[OPTIONS]"] if len(command.params) > len(arguments) else []), *words]) + group + "\n```\n"
    yield inspect.cleandoc(command.help or "")
    options = [p for p in command.params if isinstance(p, click.Option)]
    if options:
        yield "\n| option | |\n|---|---|"
        yield from (f"| {_spelled(o)} | {_meaning(o)} |" for o in options)
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from _command(below, f"{path} {name}", level + 1)


def _argument(p: click.Argument) -> str:
    name = (p.name or "").upper() + ("…" if p.nargs == -1 else "")
    return name if p.required else f"[{name}]"


def _spelled(o: click.Option) -> str:
    names = ", ".join(f"`{n}`" for n in o.opts)
    return names if o.is_flag else f"{names} {(o.metavar or o.type.name).upper()}"


def _meaning(o: click.Option) -> str:
    text = (o.help or "").replace("|", "\\|")
    shown = o.show_default and o.default not in (None, (), "")
    return f"{text} Default `{o.default}`." if shown else text


def config() -> str:
    """All settings with types and defaults, from the dataclasses and the shipped YAML files."""
    from tidemill.platform.config import Config

    shipped = SRC / "platform" / "conf"
    out = ["# Configuration", NOTE]
    out.append(
        "A project's `conf/` is the primary [Hydra](https://hydra.cc) configuration; the files that ship with Tidemill stand behind it."
    )
    out.append(
        "`-o KEY=VALUE` overrides once, `-o GROUP=FILE` chooses a file of a group. An unknown key or a wrong type is an error that names"
    )
    out.append("the file and the key.\n")
    out += _settings(Config, "")
    out.append("\n## Shipped files\n")
    for path in sorted(shipped.rglob("*.yaml"), key=lambda p: (len(p.parts), str(p))):
        out.append(f"`{path.relative_to(shipped).as_posix()}`\n\n```yaml\n{path.read_text().rstrip()}\n```\n")
    return "\n".join(out).rstrip() + "\n"


def _settings(kind: type, prefix: str) -> Iterator[str]:
    hints = get_type_hints(kind)
    yield f"## {prefix.rstrip('.') or 'top level'}\n\n{inspect.cleandoc(kind.__doc__ or '')}\n"
    plain = [f for f in fields(kind) if not is_dataclass(hints[f.name])]
    yield "| key | type | default |\n|---|---|---|"
    for f in plain:
        default = "" if repr(f.default).startswith("<dataclasses") else f"`{f.default!r}`"
        yield f"| `{prefix}{f.name}` | {_type(hints[f.name])} | {default} |"
    yield ""
    for f in fields(kind):
        if is_dataclass(hints[f.name]):
            yield from _settings(hints[f.name], f"{prefix}{f.name}.")
    if kind.__name__ == "RetrainingConfig":
        from tidemill.platform.config import TriggerConfig

        yield from _settings(TriggerConfig, "retraining.triggers[].")


def _type(hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) else str(hint)
    text = re.sub(r"\b(?:[a-z_]+\.)+([A-Za-z])", r"\1", text).replace("tuple[TriggerConfig, ...]", "list of triggers")
    return text.replace("|", "or").replace("Literal", "one of ").replace("NoneType", "None")


def errors() -> str:
    """The tree of errors with exit codes and HTTP status."""
    from tidemill.api.errors import STATUS
    from tidemill.cli.exits import CODES, MEANING
    from tidemill.core import errors as module

    def first(table: Any, kind: type) -> Any:
        return next((code for base, code, *_ in table if issubclass(kind, base)), "")

    out = [
        "# Errors and exit codes",
        NOTE,
        "Every error that Tidemill raises on purpose is one of these. A message says what, which one, and the next step.",
    ]
    out.append("`TIDEMILL_DEBUG=1` shows the traceback.\n")
    out.append("| error | means | exit code | HTTP status |\n|---|---|---|---|")
    kinds = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, module.TidemillError)]
    for kind in kinds:
        meaning = (kind.__doc__ or "").rstrip(".")
        out.append(f"| `{kind.__name__}` | {meaning} | {first(CODES, kind)} | {first(STATUS, kind)} |")
    out.append("\n| exit code | means |\n|---|---|")
    out += [f"| {code} | {meaning} |" for code, meaning in MEANING.items()]
    return "\n".join(out) + "\n"


def ports() -> str:
    """Every port with its methods and guarantees, read from the source, and the contract suite that checks them."""
    out = [
        "# Ports",
        NOTE,
        "A port is a role that an implementation can take. Each guarantee is a test of the contract suite named with it; every",
    ]
    out.append("implementation, the embedded default included, runs that suite.\n")
    for path in sorted(SRC.glob("*/ports.py")):
        found = [c for c in ast.parse(path.read_text()).body if isinstance(c, ast.ClassDef) and _is_port(c)]
        if found:
            out.append(f"## {path.parent.name}\n")
        for port in found:
            out += _port(port)
    return "\n".join(out).rstrip() + "\n"


def _is_port(c: ast.ClassDef) -> bool:
    bases = {b.id for b in c.bases if isinstance(b, ast.Name)}
    return "Protocol" in bases and "uarantees" in (ast.get_docstring(c) or "")


def _port(c: ast.ClassDef) -> Iterator[str]:
    head, _, promises = (ast.get_docstring(c) or "").partition("\n\nGuarantees")
    yield f"### {c.name}\n\n{head}\n"
    suite = re.search(r"tidemill\.testing\.(\w+)\.(\w+)", promises)
    if suite:
        yield f"Checked by `tidemill.testing.{suite[1]}.{suite[2]}`:\n"
    for line in promises.splitlines()[1:]:
        name, _, text = line.strip().partition(": ")
        yield f"- **{name}** – {text}" if text else f"- {name}"
    yield "\n| method | |\n|---|---|"
    for m in c.body:
        if isinstance(m, ast.FunctionDef | ast.AsyncFunctionDef):
            told = " ".join((ast.get_docstring(m) or "").split()).replace("|", "\\|")
            yield f"| `{m.name}({ast.unparse(m.args).removeprefix('self').lstrip(', ')})` | {told} |".replace("`*, ", "`*, ")
    yield ""


def http_api() -> str:
    """The JSON API, from its OpenAPI description, and what the model server answers."""
    from tidemill.api.app import build_api

    app = build_api(None, verify=lambda _token: None, why=lambda _platform, _id: {})  # type: ignore[arg-type]
    spec = app.openapi()
    out = [
        "# HTTP API",
        NOTE,
        "`tidemill up` serves it beside the console; the machine-readable description is at `/api/v1/openapi.json`. Every request",
    ]
    out.append('carries `Authorization: Bearer TOKEN`. Errors are JSON, `{"error": …}`, with the status of [their kind](errors.md).\n')
    out.append("| request | does | parameters |\n|---|---|---|")
    for path, methods in spec["paths"].items():
        for method, told in methods.items():
            parameters = ", ".join(f"`{p['name']}`" for p in told.get("parameters", ()) if p["in"] == "query")
            out.append(f"| `{method.upper()} {path}` | {' '.join(told.get('description', '').split())} | {parameters} |")
    out += _model_server()
    out += _feature_server()
    return "\n".join(out) + "\n"


def _model_server() -> Iterator[str]:
    from tidemill.serving.http import Settings
    from tidemill.serving.protocols import PROTOCOLS, Host
    from tidemill.serving.protocols.describe import PAGES

    host = Host({"SERVICE": None}, Settings(), *[lambda *_: None] * 4)  # type: ignore[dict-item,arg-type]
    yield "\n## The model server\n"
    yield "Speaks the protocols below; [Ask the model server](../how-to/ask-the-model-server.md) has an example of each. `/openapi.json` has the"
    yield "bodies. What another protocol has no place for comes in headers: `tidemill-prediction-id` (give one to name the prediction yourself),"
    yield "`tidemill-model-version` and `tidemill-logged`. Errors have each protocol's own shape; the status is that of [their kind](errors.md).\n"
    yield "| request | does |\n|---|---|"
    yield from (f"| `GET {path}` | {told} |" for path, told in PAGES)
    yield "| `GET /openapi.json` | All of this as an OpenAPI description. |"
    for protocol in PROTOCOLS:
        yield f"\n### {protocol.name}\n\n{inspect.cleandoc(type(protocol).__doc__ or '')}\n\n| request | does | token |\n|---|---|---|"
        for route in protocol.routes(host):
            yield f"| `{route.method} {route.pattern}` | {route.told} | {route.action or 'none'} |"


def _feature_server() -> Iterator[str]:
    from tidemill.serving.feast.routes import ROUTES

    yield "\n## The feature server\n"
    yield "Speaks the HTTP protocol of [Feast](https://feast.dev)'s feature server, so Feast's SDK (`online_store: {type: remote}`) and any client"
    yield "of it work unchanged; [Migrate from Feast](../how-to/migrate-from-feast.md) says how. The model server answers these routes, and"
    yield "`tidemill features serve` answers them without models. `/openapi.json` has the bodies.\n"
    yield "| request | does |\n|---|---|"
    yield from (f"| `{method.upper()} {path}` | {told} |" for method, path, told, _ in ROUTES)


def main() -> None:
    """Write the pages."""
    for name, text in pages().items():
        (ROOT / "docs" / "reference" / name).write_text(text)


if __name__ == "__main__":
    main()
