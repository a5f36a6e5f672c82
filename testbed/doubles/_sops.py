#!/usr/bin/env python3
"""A double of the program sops: no package carries it here. README.md says what it keeps to.

It reads and writes the files of sops 3.13.2 (dotenv, JSON, binary) with age recipients, and ends with its messages and codes.
`testbed/doubles/sops` is a link to this file: put that folder on PATH, or copy this file to a host as /usr/local/bin/sops.
Needs `cryptography`, and pyrage or the command `age`.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

try:
    pyrage: Any = importlib.import_module("pyrage")
except ImportError:  # Debian has no package of it: the command `age` does its work there.
    pyrage = None

VERSION = "3.13.2"
ENCRYPTED = re.compile(r"ENC\[AES256_GCM,data:(.+),iv:(.+),tag:(.+),type:(.+)\]")
MAC_ONLY_ENCRYPTED = hashlib.sha256(b"sops").digest()
RULES = ("unencrypted_suffix", "encrypted_suffix", "unencrypted_regex", "encrypted_regex")
# What else can hold the data key, and the entry that names it.
FOREIGN = {
    "pgp": "fp",
    "kms": "arn",
    "gcp_kms": "resource_id",
    "hckms": "key_id",
    "azure_kv": "name",
    "hc_vault": "key_name",
}


class Exit(Exception):
    """What the program says on stderr, and its exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class Comment(str):
    """A comment: in a branch it stands where a key stands."""


class Branch(list[tuple[str, Any]]):
    """A mapping that keeps its order, comments and keys that come twice."""

    def put(self, path: list[str | int], value: Any) -> None:
        """Set what is at a path; what is not there yet comes last."""
        for number, (key, old) in enumerate(self):
            if key == path[0] and not isinstance(key, Comment):
                self[number] = (key, put(old, path[1:], value))
                return
        self.append((str(path[0]), put(None, path[1:], value)))


def put(old: Any, path: list[str | int], value: Any) -> Any:
    """The node that takes the place of `old` when the value is set below it."""
    if not path:
        return value
    if isinstance(old, Branch):
        old.put(path, value)
        return old
    if isinstance(path[0], int):
        items = old if isinstance(old, list) else []
        here = items[path[0]] if path[0] < len(items) else None
        items[path[0] : path[0] + 1] = [put(here, path[1:], value)]
        return items
    return Branch([(path[0], put(None, path[1:], value))])


def walk(node: Any, path: tuple[str, ...], leaf: Callable[[Any, tuple[str, ...]], Any]) -> Any:
    """The tree with every value and comment replaced, in the order of the file."""
    if isinstance(node, Branch):
        return Branch(
            (Comment(leaf(key, path)), None) if isinstance(key, Comment) else (key, walk(value, (*path, key), leaf))
            for key, value in node
        )
    if isinstance(node, list):
        return [walk(item, path, leaf) for item in node]
    return None if node is None else leaf(node, path)


# Values -----------------------------------------------------------------------------------------------------------------------


def raw(text: str) -> bytes:
    """Bytes of a text: a file may hold what is not UTF-8."""
    return text.encode("utf-8", "surrogateescape")


def plain(value: Any) -> bytes:
    """A value as it is encrypted and as the MAC counts it."""
    if isinstance(value, float):
        return f"{Decimal(repr(value)):f}".removesuffix(".0").encode()
    return raw(value if isinstance(value, str) else str(value))


def shown(value: Any) -> str:
    """A value in a dotenv file. Numbers from `set` are floats, so 5432 becomes 5432.0: so does the real one."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        number = Decimal(repr(value)).normalize()
        if number and not -4 <= number.adjusted() < 6:
            digits, _, exponent = f"{number:E}".partition("E")
            return f"{digits}E{int(exponent):+03d}"
        return f"{number:f}" if number % 1 else f"{number:f}.0"
    return str(value).replace("\n", "\\n")


class Cipher:
    """AES-256-GCM of values; an unchanged value keeps its IV, so that `set` changes only lines it must."""

    def __init__(self, key: bytes) -> None:
        self.aes = AESGCM(key)
        self.ivs: dict[tuple[str, Any, str], bytes] = {}

    def encrypt(self, value: Any, bound: str) -> str:
        """An ENC[…] text. Nothing stays nothing."""
        if value == "":
            return ""
        kind = "comment" if isinstance(value, Comment) else type(value).__name__
        iv = self.ivs.get((kind, value, bound)) or secrets.token_bytes(32)
        sealed = self.aes.encrypt(iv, plain(value), raw(bound))
        data, iv64, tag = (base64.b64encode(part).decode() for part in (sealed[:-16], iv, sealed[-16:]))
        return f"ENC[AES256_GCM,data:{data},iv:{iv64},tag:{tag},type:{kind}]"

    def decrypt(self, text: str, bound: str) -> Any:
        """The value of an ENC[…] text."""
        if not text:
            return ""
        if not (match := ENCRYPTED.match(text)):
            raise ValueError(f"Input string {text} does not match sops' data format")
        parts = []
        for name, part in zip(("data", "iv", "tag"), match.groups(), strict=False):
            try:
                parts.append(base64.b64decode(part, validate=True))
            except ValueError as exc:
                raise ValueError(f"Error base64-decoding {name}: illegal base64 data at input byte 0") from exc
        try:
            content = self.aes.decrypt(parts[1], parts[0] + parts[2], raw(bound)).decode("utf-8", "surrogateescape")
        except InvalidTag as exc:
            raise ValueError("Could not decrypt with AES_GCM: cipher: message authentication failed") from exc
        kind = match[4]
        kinds: dict[str, Callable[[str], Any]] = {
            "str": str,
            "int": int,
            "float": float,
            "comment": Comment,
            "bytes": str,
        }
        kinds["bool"] = lambda text: text == "True"
        if kind not in kinds:
            raise ValueError(f"Unknown datatype: {kind}")
        value = kinds[kind](content)
        self.ivs[(kind, value, bound)] = parts[1]
        return value


# Files ------------------------------------------------------------------------------------------------------------------------


def load_dotenv(text: str) -> Branch:
    """Lines KEY=value: no quotes, no trimming, empty lines are lost, \\n is a line break."""
    branch = Branch()
    for line in filter(None, text.split("\n")):
        key, sign, value = line.partition("=")
        if line.startswith("#"):
            branch.append((Comment(line[1:]), None))
        elif sign:
            branch.append((key, value.replace("\\n", "\n")))
        else:
            raise ValueError(f"invalid dotenv input line: {line}")
    return branch


def emit_dotenv(branch: Branch) -> str:
    lines = []
    for key, value in branch:
        if isinstance(value, list):
            raise ValueError(f"cannot use complex value in dotenv file; offending key {key}")
        lines.append(f"#{key}\n" if isinstance(key, Comment) else f"{key}={shown(value)}\n")
    return "".join(lines)


def load_json(text: str) -> Branch:
    try:
        tree = json.loads(text, object_pairs_hook=Branch)
    except json.JSONDecodeError as exc:
        at = text[exc.pos : exc.pos + 1]
        reason = f"invalid character '{at}' looking for beginning of value" if at else "EOF"
        raise ValueError(f"Could not unmarshal input data: {reason}") from exc
    if not isinstance(tree, Branch):
        raise ValueError("Could not unmarshal input data: SOPS only supports JSON files with a top-level object")
    return tree


def emit_json(node: Any, indent: str = "") -> str:
    """JSON as Go writes it, with a tab."""
    deeper = indent + "\t"
    if isinstance(node, Branch):
        pairs = [(key, value) for key, value in node if not isinstance(key, Comment)]
        inner = ",\n".join(f"{deeper}{emit_json(key)}: {emit_json(value, deeper)}" for key, value in pairs)
        return f"{{\n{inner}\n{indent}}}" if pairs else "{}"
    if isinstance(node, list):
        inner = ",\n".join(deeper + emit_json(item, deeper) for item in node)
        return f"[\n{inner}\n{indent}]" if node else "[]"
    if isinstance(node, float):
        return plain(node).decode()
    text = json.dumps(node if not isinstance(node, str) else raw(node).decode("utf-8", "replace"), ensure_ascii=False)
    return re.sub("[<>&\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", text)


def read_plain(kind: str, text: str) -> Branch:
    if kind == "binary":
        return Branch([("data", text)])
    return load_dotenv(text) if kind == "dotenv" else load_json(text)


def write_plain(kind: str, branch: Branch) -> str:
    if kind == "dotenv":
        return emit_dotenv(branch)
    if kind == "json":
        return emit_json(branch) + "\n"
    for key, value in branch:
        if key == "data" and isinstance(value, str):
            return value
    raise ValueError(
        "error emitting binary store: no binary data found in tree\n\n"
        "This is likely not an encrypted binary file? If not, use --output-type to select the correct output type."
    )


def read_encrypted(kind: str, text: str) -> tuple[Branch, dict[str, Any]]:
    """The tree of a file, and its metadata as nested dictionaries."""
    if kind != "dotenv":
        tree = load_json(text)
        found = [value for key, value in tree if key == "sops"]
        metadata = plain_dict(found[0]) if found else {}
        return Branch(pair for pair in tree if pair[0] != "sops"), metadata
    tree, metadata = Branch(), {}
    for key, value in load_dotenv(text):
        if isinstance(key, Comment) or not key.startswith("sops_"):
            tree.append((key, value))
            continue
        place: Any = metadata
        steps = re.split("__(?:map|list)_", key.removeprefix("sops_"))
        for step in steps[:-1]:
            place = place.setdefault(step, {})
        place[steps[-1]] = value
    return tree, {key: list(value.values()) if isinstance(value, dict) else value for key, value in metadata.items()}


def plain_dict(node: Any) -> Any:
    if isinstance(node, Branch):
        return {key: plain_dict(value) for key, value in node}
    return [plain_dict(item) for item in node] if isinstance(node, list) else node


def branch_of(node: Any) -> Any:
    """The other way, sorted as sops does it."""
    if isinstance(node, dict):
        return Branch((key, branch_of(node[key])) for key in sorted(node))
    return [branch_of(item) for item in node] if isinstance(node, list) else node


def flat(name: str, node: Any) -> Iterator[tuple[str, Any]]:
    """Metadata as a dotenv file has it."""
    if isinstance(node, Branch):
        for key, value in node:
            yield from flat(f"{name}__map_{key}", value)
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from flat(f"{name}__list_{number}", value)
    else:
        yield name, node


def write_encrypted(kind: str, tree: Branch, metadata: dict[str, Any]) -> str:
    top = branch_of(metadata)
    if kind == "dotenv":
        return emit_dotenv(Branch([*tree, *(pair for key, value in top for pair in flat(f"sops_{key}", value))]))
    return emit_json(Branch([*tree, ("sops", top)])) + "\n"


# The data key -----------------------------------------------------------------------------------------------------------------


def run_age(arguments: list[str], given: bytes) -> bytes:
    """The command `age`, where pyrage is not."""
    if not (program := shutil.which("age")):
        raise Exit("this double of sops needs pyrage or the command age")
    done = subprocess.run([program, *arguments], input=given, capture_output=True, check=False)
    if done.returncode:
        raise ValueError(done.stderr.decode(errors="replace").splitlines()[0].removeprefix("age: error: "))
    return done.stdout


def age_encrypt(recipient: str, key: bytes) -> str:
    """The data key for one recipient, armored."""
    try:
        if not pyrage:
            return run_age(["-a", "-r", recipient], key).decode()
        sealed = pyrage.encrypt(key, [pyrage.x25519.Recipient.from_str(recipient)])
    except Exit:
        raise
    except Exception as exc:
        raise Exit(f"failed to parse input as Bech32-encoded age public key: {exc}") from exc
    lines = textwrap.wrap(base64.b64encode(sealed).decode(), 64)
    return "\n".join(["-----BEGIN AGE ENCRYPTED FILE-----", *lines, "-----END AGE ENCRYPTED FILE-----", ""])


def age_decrypt(armored: str, identities: list[str]) -> bytes:
    """The data key; ValueError with the text of the library age when no identity fits."""
    try:
        if pyrage:
            body = "".join(line for line in armored.split("\n") if not line.startswith("-----"))
            keys = [pyrage.x25519.Identity.from_str(line) for line in identities]
            return bytes(pyrage.decrypt(base64.b64decode(body), keys))
        with tempfile.NamedTemporaryFile("w", suffix=".age") as file:
            file.write("\n".join(identities) + "\n")
            file.flush()
            return run_age(["-d", "-i", file.name], armored.encode())
    except Exit:
        raise
    except Exception as exc:
        if re.search("no identity matched|did not match|no matching keys", str(exc), re.IGNORECASE):
            single = "identity did not match any of the recipients: incorrect identity for recipient block"
            raise ValueError(single if len(identities) == 1 else "no identity matched any of the recipients") from exc
        raise ValueError(str(exc)) from exc


def opening(exc: OSError) -> str:
    """An error of a file as Go words it."""
    return f"open {exc.filename}: {str(exc.strerror).lower()}"


def find_identities() -> tuple[list[str], str]:
    """The identities of all places, and what sops says of those places. SSH keys and commands it does not look at."""
    env, home = os.environ, os.environ.get("HOME", "")
    errors, contents = [], {}
    unused = ["SOPS_AGE_SSH_PRIVATE_KEY_FILE", "SOPS_AGE_SSH_PRIVATE_KEY_CMD"]
    if home:
        unused += [f"{home}/.ssh/id_ed25519", f"{home}/.ssh/id_rsa"]
    else:
        errors.append("$HOME is not defined")
    if "SOPS_AGE_KEY" in env:
        contents["SOPS_AGE_KEY"] = "\n".join(env["SOPS_AGE_KEY"].split())
    else:
        unused.append("SOPS_AGE_KEY")
    config = env.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else "")
    default = f"{config}/sops/age/keys.txt"
    if "SOPS_AGE_KEY_FILE" in env:
        try:
            contents["SOPS_AGE_KEY_FILE"] = Path(env["SOPS_AGE_KEY_FILE"]).read_text()
        except OSError as exc:
            errors.append(f"failed to open SOPS_AGE_KEY_FILE file: {opening(exc)}")
    else:
        unused.append("SOPS_AGE_KEY_FILE")
    unused.append("SOPS_AGE_KEY_CMD")
    try:
        contents[default] = Path(default).read_text()
    except FileNotFoundError:
        if not contents:
            unused.append(default)
    except OSError as exc:
        errors.append(f"failed to open file: {opening(exc)}")
    identities = []
    for name, content in contents.items():
        lines = [line for line in content.splitlines() if line and not line.startswith("#")]
        if all(line.startswith("AGE-SECRET-KEY-1") for line in lines):
            identities += lines
        else:
            errors.append(f"failed to parse '{name}' age identities: unknown identity type")
        if not lines:
            unused.append(name)
    said = f". Errors while loading age identities: {'; '.join(errors)}" if errors else ""
    if unused:
        names = [f"'{name}'" for name in unused]
        listed = ", ".join(names[:-1]) + f"{',' if len(names) > 2 else ''} and {names[-1]}" if names[1:] else names[0]
        said += f". Did not find keys in location{'s' if names[1:] else ''} {listed}."
    return identities, said


def data_key(metadata: dict[str, Any]) -> bytes:
    """The data key of a file by any of its recipients; else code 128 and the real text."""
    failures = []
    identities, said = find_identities()
    for entry in metadata.get("age", []):
        try:
            if not identities:
                raise Exit(f"failed to load age identities{said}")
            return age_decrypt(str(entry.get("enc")), identities)
        except Exit as exc:
            failures.append((entry.get("recipient"), str(exc)))
        except ValueError as exc:
            text = f"failed to create reader for decrypting sops data key with age: {exc}{said}"
            failures.append((entry.get("recipient"), text))
    for kind, name in FOREIGN.items():
        failures += [
            (entry.get(name), f"this double of sops knows no {kind}, only age") for entry in metadata.get(kind, [])
        ]
    blocks = []
    for recipient, text in failures:
        lines = textwrap.wrap(text, 60, break_long_words=False, break_on_hyphens=False)
        marked = [f"    {' ' if number else '-'} | {line}" for number, line in enumerate(lines)]
        blocks.append("\n".join([f"  {recipient}: FAILED", *marked]))
    raise Exit(
        "Failed to get the data key required to decrypt the SOPS file.\n\nGroup 0: FAILED\n"
        + "\n  \n".join(blocks)
        + "\n\nRecovery failed because no master key was able to decrypt the file. In\norder for SOPS to recover the file, "
        "at least one key has to be successful,\nbut none were.",
        128,
    )


# Trees ------------------------------------------------------------------------------------------------------------------------


def is_encrypted(metadata: dict[str, Any], path: tuple[str, ...]) -> bool:
    """Whether the rule of the file has the value at this path encrypted."""
    for name in RULES:
        if text := metadata.get(name):
            fits = (lambda part: part.endswith(text)) if "suffix" in name else (lambda part: re.search(text, part))
            return any(map(fits, path)) != name.startswith("un")
    return not any(part.endswith("_unencrypted") for part in path)


class Tree:
    """An encrypted file, opened."""

    def __init__(self, branch: Branch, metadata: dict[str, Any], key: bytes) -> None:
        self.branch = branch
        self.metadata = metadata
        self.cipher = Cipher(key)

    def _walk(self, change: Callable[[Any, str], Any], count_after: bool) -> str:
        """Change what is to be encrypted; the MAC over the plain values."""
        only = str(self.metadata.get("mac_only_encrypted")).lower() == "true"
        digest = hashlib.sha512(MAC_ONLY_ENCRYPTED if only else b"")

        def leaf(value: Any, path: tuple[str, ...]) -> Any:
            chosen = is_encrypted(self.metadata, path)
            changed = change(value, ":".join(path) + ":") if chosen else value
            if (chosen or not only) and not isinstance(value, Comment):
                digest.update(plain(changed if count_after else value))
            return changed

        self.branch = walk(self.branch, (), leaf)
        return digest.hexdigest().upper()

    def encrypt(self) -> None:
        mac = self._walk(self.cipher.encrypt, count_after=False)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.metadata.update(lastmodified=now, mac=self.cipher.encrypt(mac, now))

    def _open(self, value: Any, bound: str) -> Any:
        if not isinstance(value, str):
            raise ValueError(f"Expected encrypted value as string, but got {type(value).__name__}")
        try:
            return self.cipher.decrypt(value, bound)
        except ValueError as exc:
            if isinstance(value, Comment):
                warn("Found possibly unencrypted comment in file.", "SOPS")
                return value
            raise ValueError(f"Could not decrypt value: {exc}") from exc

    def decrypt(self, ignore_mac: bool) -> None:
        try:
            computed = self._walk(self._open, count_after=True)
        except ValueError as exc:
            raise Exit(f"Error decrypting tree: Error walking tree: {exc}", 25) from exc
        if ignore_mac:
            return
        try:
            stored = self.cipher.decrypt(str(self.metadata.get("mac", "")), str(self.metadata["lastmodified"]))
        except ValueError as exc:
            raise Exit(f"Cannot decrypt MAC: {exc}", 51) from exc
        if stored != computed:
            raise Exit(f"MAC mismatch. File has {stored or 'no MAC'}, computed {computed}", 51)


def open_file(kind: str, path: str, ignore_mac: bool) -> Tree:
    """Read, check and decrypt a file."""
    text = read(path)
    try:
        branch, metadata = read_encrypted(kind, text)
    except ValueError as exc:
        raise Exit(str(exc)) from exc
    if not metadata:
        raise Exit("sops metadata not found")
    known = [name for name in ("age", *FOREIGN) if metadata.get(name)]
    if "age" in known or not known:
        stamp = str(metadata.get("lastmodified", ""))
        try:
            datetime.fromisoformat(stamp)
        except ValueError as exc:
            layout = "2006-01-02T15:04:05Z07:00"
            raise Exit(f'parsing time "{stamp}" as "{layout}": cannot parse "{stamp}" as "2006"') from exc
    if not known:
        raise Exit("No keys found in file")
    tree = Tree(branch, metadata, data_key(metadata))
    tree.decrypt(ignore_mac)
    return tree


# Command line -----------------------------------------------------------------------------------------------------------------

SWITCHES = {
    "in-place",
    "i",
    "ignore-mac",
    "verbose",
    "idempotent",
    "value-stdin",
    "value-file",
    "disable-version-check",
}
TYPES = {"input-type", "output-type", "filename-override", "output", "decryption-order"}
RULE_FLAGS = {name.replace("_", "-") for name in RULES}
FLAGS = {
    "decrypt": TYPES | {"extract", "in-place", "i", "ignore-mac"},
    "encrypt": TYPES | RULE_FLAGS | {"age", "a", "in-place", "i"},
    "set": {"input-type", "output-type", "value-file", "value-stdin", "ignore-mac", "idempotent", "decryption-order"},
}
FLAGS[""] = FLAGS["decrypt"] | FLAGS["encrypt"] | {"d", "decrypt", "e", "encrypt", "version", "v", "verbose"}
FLAGS[""] |= {"disable-version-check", "check-for-updates"}
SWITCHES |= {"d", "decrypt", "e", "encrypt", "version", "v", "check-for-updates"}


def warn(message: str, logger: str = "CMD", level: str = "warning") -> None:
    """A line of its log."""
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    print(f'[{logger}]\t time="{stamp}" level={level} msg={json.dumps(message)}', file=sys.stderr)


def usage(message: str) -> NoReturn:
    """An option that it does not know: the log's line of a fatal error, code 1."""
    print(f"Incorrect Usage. {message}\n")
    warn(message, level="fatal")
    raise SystemExit(1)


def parse(command: str, arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """Options and the rest, as the library of Go parses: options end at the first argument that is none."""
    given: dict[str, str] = {}
    while arguments and arguments[0].startswith("-") and arguments[0] != "-":
        word, *arguments = arguments
        if word == "--":
            break
        name, sign, value = word.lstrip("-").partition("=")
        if name not in FLAGS[command]:
            usage(f"flag provided but not defined: -{name}")
        if name not in SWITCHES and not sign:
            if not arguments:
                usage(f"flag needs an argument: -{name}")
            value, *arguments = arguments
        given[{"i": "in-place", "a": "age", "d": "decrypt", "e": "encrypt", "v": "version"}.get(name, name)] = value
    return given, arguments


def reordered(command: str, arguments: list[str]) -> list[str]:
    """A command's options may stand behind its file: they are sorted to the front, each with the word after it."""
    front: list[str] = []
    rest: list[str] = []
    follows = False
    for number, word in enumerate(arguments):
        is_flag = word.startswith("-") and word.lstrip("-").partition("=")[0] in FLAGS[command]
        if follows and not is_flag:
            front.append(word)
            follows = False
        elif word == "--":
            rest = ["--", *rest, *arguments[number + 1 :]]
            break
        elif is_flag:
            front.append(word)
            follows = "=" not in word
        else:
            rest.append(word)
    return front + rest


def read(path: str) -> str:
    try:
        content = Path(path).read_bytes() if path else sys.stdin.buffer.read()
    except OSError as exc:
        raise Exit(f"Error reading file: {opening(exc)}", 2) from exc
    return content.decode("utf-8", "surrogateescape")


def write(text: str, path: str) -> None:
    if not path:
        sys.stdout.buffer.write(raw(text))
        return
    try:
        Path(path).write_bytes(raw(text))
    except OSError as exc:
        raise Exit(f"Could not open in-place file for writing: {opening(exc)}", 3) from exc


def kind_of(given: str, path: str) -> str:
    """The format: by option, else by the name's end, else binary."""
    names = {".env": "dotenv", ".json": "json", ".yaml": "yaml", ".yml": "yaml", ".ini": "ini"}
    if given not in ("dotenv", "json", "yaml", "ini", "binary"):
        given = next((kind for end, kind in names.items() if path.endswith(end)), "binary")
    if given in ("yaml", "ini"):
        raise Exit(f"this double of sops knows no {given}")
    return given


def tree_path(text: str) -> list[str | int]:
    """["KEY"][0] as a list."""
    path: list[str | int] = []
    for part in filter(None, text.split("[")):
        if not part.endswith("]"):
            raise ValueError(f"component {part} doesn't end with ]")
        path.append(part[1:-2] if part[0] in "\"'" else int(part[:-1]))
    return path


def stop_at_constant(text: str) -> NoReturn:
    raise ValueError(text)


def tree_value(text: str) -> Any:
    """A value for `set` from its JSON."""
    try:
        value = json.loads(text, parse_constant=stop_at_constant)
    except ValueError as exc:
        raise Exit("Value for --set is not valid JSON", 7) from exc
    if isinstance(value, list):
        raise Exit("Invalid --set value format", 7)
    if isinstance(value, dict):
        return load_json(text)
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def already_encrypted(kind: str, branch: Branch) -> None:
    if any(key.startswith("sops_") if kind == "dotenv" else key == "sops" for key, _ in branch):
        text = (
            "The file you have provided contains a top-level entry called 'sops', or for flat file formats top-level entries "
            "starting with 'sops_'. This is generally due to the file already being encrypted. SOPS uses a top-level entry "
            "called 'sops' to store the metadata required to decrypt the file. For this reason, SOPS can not encrypt files "
            "that already contain such an entry.\n\nIf this is an unencrypted file, rename the 'sops' entry.\n\nIf this is an "
            "encrypted file and you want to edit it, use the editor mode, for example: `sops edit my_file.yaml`"
        )
        raise Exit("\n\n".join(textwrap.fill(part, 75) for part in text.split("\n\n")), 203)


def encode(kind: str, tree: Tree) -> str:
    """The encrypted file's text."""
    already_encrypted(kind, tree.branch)
    tree.encrypt()
    try:
        return write_encrypted(kind, tree.branch, tree.metadata)
    except ValueError as exc:
        raise Exit(f"Could not marshal tree: {exc}", 4) from exc


def do_set(given: dict[str, str], words: list[str]) -> None:
    wanted = 2 if "value-stdin" in given else 3
    if len(words) != wanted:
        start = "file specified" if wanted == 2 else "no file specified"
        end = "Need precisely 2 positional arguments since --value-stdin is used." if wanted == 2 else ""
        end = end or "Need precisely 3 positional arguments."
        raise Exit(f"Error: {start}, or index and value are missing. {end}", 100)
    name = os.path.abspath(words[0])
    kinds = kind_of(given.get("input-type", ""), name), kind_of(given.get("output-type", ""), name)
    try:
        path = tree_path(words[1])
    except ValueError as exc:
        raise Exit("Invalid set index format", 7) from exc
    if "value-stdin" in given:
        text = read("")
    else:
        text = read(words[2]) if "value-file" in given else words[2]
    value = tree_value(text)
    tree = open_file(kinds[0], name, "ignore-mac" in given)
    before = repr(tree.branch)
    tree.branch.put(path, value)
    if "idempotent" in given and repr(tree.branch) == before:
        return
    write(encode(kinds[1], tree), name)


def do_decrypt(given: dict[str, str], name: str, kinds: tuple[str, str]) -> str:
    try:
        wanted = tree_path(given.get("extract", ""))
    except ValueError as exc:
        raise Exit(f"error parsing --extract path: {exc}", 91) from exc
    node: Any = open_file(kinds[0], name, "ignore-mac" in given).branch
    for part in wanted:
        found = (
            [value for key, value in node if key == part] if isinstance(node, Branch) else node[part : int(part) + 1]
        )
        if not found:
            raise Exit(f"error truncating tree: component ['{part}'] not found")
        node = found[0]
    if isinstance(node, str):
        return node
    try:
        return write_plain(kinds[1], node) if isinstance(node, Branch) else emit_json(node)
    except ValueError as exc:
        raise Exit(f"Error dumping file: {exc}", 4) from exc


def do_encrypt(given: dict[str, str], name: str, kinds: tuple[str, str]) -> str:
    recipients = given.get("age", os.environ.get("SOPS_AGE_RECIPIENTS", ""))
    if not recipients:
        raise Exit("config file not found, or has no creation rules, and no keys provided through command line options")
    key = secrets.token_bytes(32)
    entries = [
        {"recipient": recipient.strip(), "enc": age_encrypt(recipient.strip(), key)}
        for recipient in recipients.split(",")
    ]
    metadata: dict[str, Any] = {
        rule: given[rule.replace("_", "-")] for rule in RULES if rule.replace("_", "-") in given
    }
    if len(metadata) > 1:
        raise Exit(f"Error: cannot use more than one of {', '.join(metadata)} in the same file", 8)
    metadata = {"age": entries, "version": VERSION, **(metadata or {"unencrypted_suffix": "_unencrypted"})}
    text = read(name)
    try:
        branch = read_plain(kinds[0], text)
    except ValueError as exc:
        raise Exit(f"Error unmarshalling file: {exc}", 2) from exc
    return encode(kinds[1], Tree(branch, metadata, key))


def version(given: dict[str, str]) -> None:
    disabled = os.environ.get("SOPS_DISABLE_VERSION_CHECK", "").lower() in ("1", "t", "true")
    if (disabled or "disable-version-check" in given) and "check-for-updates" not in given:
        print(f"sops {VERSION}")
        return
    print(f"sops {VERSION} (latest)")
    if "check-for-updates" not in given:
        print(
            "\n[warning] Note that in a future version, sops will no longer check whether the current version is the latest "
            "when asking for sops' version. If you want to explicitly check for the latest version, add the "
            "`--check-for-updates` option to `sops --version`. This will hide this deprecation warning and will always check, "
            "even if the default behavior changes in the future."
        )


def run(arguments: list[str]) -> None:
    """One call of the program."""
    given, words = parse("", arguments)
    if "version" in given:
        return version(given)
    command = next((name for name in ("encrypt", "decrypt") if name in given), "")
    if not command and words and words[0] in ("decrypt", "encrypt", "set"):
        command, *words = words
        more, words = parse(command, reordered(command, words))
        given.update(more)
        if command == "set":
            return do_set(given, words)
    elif not words:
        raise Exit("Error: no file specified", 100)
    if not command:
        raise Exit("this double of sops only knows encrypt, decrypt and set")
    name = os.path.abspath(words[0]) if words else ""
    if not name and (command == "encrypt" and not given.get("filename-override")):
        raise Exit("Error: must specify --filename-override when reading from stdin", 8)
    if len(words) > 1:
        warn("More than one positional argument provided. Only the first one will be used!")
    if "in-place" in given and (given.get("output") or not name):
        other = "operate on both --output and --in-place" if name else "use --in-place when reading from stdin"
        raise Exit(f"Error: cannot {other}", 8)
    if name and not os.path.exists(name):
        raise Exit(f'Error: cannot operate on non-existent file "{name}"', 100)
    called = given.get("filename-override") or name
    kinds = kind_of(given.get("input-type", ""), called), kind_of(given.get("output-type", ""), called)
    text = (do_decrypt if command == "decrypt" else do_encrypt)(given, name, kinds)
    write(text, name if "in-place" in given else given.get("output", ""))
    return None


def main() -> int:
    """Command line."""
    try:
        run(sys.argv[1:])
    except Exit as exc:
        sys.stderr.buffer.write(raw(f"{exc}\n"))
        return exc.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
