# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The double of sops: files, failures and codes; the same for the real program where there is one, and read by npm's sops-age."""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

pyrage: Any = importlib.import_module("pyrage")

ROOT = Path(__file__).resolve().parents[2]
DOUBLES = ROOT / "testbed" / "doubles"
SOPS_AGE = ROOT / ".cache" / "npm-sops-age"
REAL = shutil.which("sops", path=os.pathsep.join(p for p in os.get_exec_path() if Path(p).resolve() != DOUBLES))

# What a file says, and what its program reads: no quotes, no trimming, \n is a line break, also behind a backslash.
HARD = {
    "PLAIN": ("s3cret", "s3cret"),
    "EMPTY": ("", ""),
    "QUOTED": ("\"a b\" 'c'", "\"a b\" 'c'"),
    "HASH": ("a # b", "a # b"),
    "BLANKS": ("  a b  ", "  a b  "),
    "EQUALS": ("a=b==", "a=b=="),
    "DOLLAR": ("$A ${B} `c` $$", "$A ${B} `c` $$"),
    "LINES": ("a\\nb\\n", "a\nb\n"),
    "BACKSLASH": ("a\\\\nb\\t", "a\\\nb\\t"),
    "MARKUP": ("<ü&\u2028>", "<ü&\u2028>"),
    "RETURN": ("a\r", "a\r"),
    "OPEN_unencrypted": ("seen", "seen"),
}
PLAIN = "# note\n\n" + "".join(f"{key}={written}\n" for key, (written, unused) in HARD.items())


@dataclass(frozen=True)
class Sops:
    """One program in a folder of its own, with the keys of the person who calls it."""

    program: str
    folder: Path

    def __call__(self, *arguments: str, given: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        env = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder),
            "SOPS_DISABLE_VERSION_CHECK": "1",
            # Where the double finds its packages, when they are not beside the interpreter.
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            **env,
        }
        done = subprocess.run(
            [self.program, *arguments], input=given.encode(), capture_output=True, cwd=self.folder, env=env, check=False
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode(errors="replace")
        )

    def encrypt(self, text: str, *identities: Any) -> Path:
        """An encrypted dotenv file for these people."""
        names = ",".join(str(identity.to_public()) for identity in identities)
        types = ("--input-type", "dotenv", "--output-type", "dotenv")
        done = self("encrypt", "--age", names, *types, "--filename-override", "x.env", "/dev/stdin", given=text)
        assert done.returncode == 0, done.stderr
        file = self.folder / "secrets.env"
        file.write_bytes(done.stdout.encode())
        return file

    def values(self, file: Path, identity: Any) -> Any:
        """What it decrypts, as JSON has it."""
        types = ("--input-type", "dotenv", "--output-type", "json")
        done = self("decrypt", *types, str(file), SOPS_AGE_KEY=str(identity))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


# A sops on PATH is held to the same.
PROGRAMS = {"double": str(DOUBLES / "sops"), **({"real": REAL} if REAL else {})}


@pytest.fixture(params=PROGRAMS)
def sops(request: pytest.FixtureRequest, tmp_path: Path) -> Sops:
    return Sops(PROGRAMS[request.param], tmp_path)


@pytest.fixture
def double(tmp_path: Path) -> Sops:
    return Sops(PROGRAMS["double"], tmp_path)


@pytest.fixture
def identity() -> Any:
    return pyrage.x25519.Identity.generate()


@pytest.fixture
def stranger() -> Any:
    return pyrage.x25519.Identity.generate()


def swapped(file: Path, first: int, second: int) -> None:
    lines = file.read_text().split("\n")
    lines[first], lines[second] = lines[second], lines[first]
    file.write_text("\n".join(lines))


def test_version_is_the_first_word_after_the_name(sops: Sops) -> None:
    assert sops("--version").stdout.startswith("sops 3.")


def test_hard_values_come_back(sops: Sops, identity: Any) -> None:
    file = sops.encrypt(PLAIN, identity)
    assert "s3cret" not in file.read_text() and "note" not in file.read_text() and "=seen\n" in file.read_text()
    assert sops.values(file, identity) == {key: value for key, (unused, value) in HARD.items()}
    # As dotenv it is the file that was given, without its empty lines.
    assert sops("-d", str(file), SOPS_AGE_KEY=str(identity)).stdout == PLAIN.replace("\n\n", "\n")


def test_a_line_without_equals_sign_is_refused_and_shown(sops: Sops, identity: Any) -> None:
    (sops.folder / "x.env").write_text('A="one\ntwo"\n')
    done = sops("encrypt", "--age", str(identity.to_public()), "x.env")
    assert (done.returncode, done.stdout) == (2, "")
    assert 'invalid dotenv input line: two"' in done.stderr


def test_identities_are_found_in_all_places(sops: Sops, identity: Any, stranger: Any) -> None:
    file = sops.encrypt("A=1\n", identity)
    keys = sops.folder / ".config/sops/age/keys.txt"
    keys.parent.mkdir(parents=True)
    keys.write_text(f"# mine\n\n{stranger}\n{identity}\n")
    for env in ({}, {"SOPS_AGE_KEY": str(stranger)}, {"SOPS_AGE_KEY_FILE": str(keys), "HOME": "/nonexistent"}):
        assert sops("decrypt", str(file), **env).stdout == "A=1\n"


def test_each_recipient_can_read(sops: Sops, identity: Any, stranger: Any) -> None:
    file = sops.encrypt("A=1\n", identity, stranger)
    assert sops.values(file, identity) == sops.values(file, stranger) == {"A": "1"}


def test_no_identity_and_a_wrong_one_are_128(sops: Sops, identity: Any, stranger: Any) -> None:
    file = sops.encrypt("A=1\n", identity)
    for env in ({}, {"SOPS_AGE_KEY": str(stranger)}, {"SOPS_AGE_KEY_FILE": "/nonexistent"}):
        done = sops("decrypt", str(file), **env)
        assert (done.returncode, done.stdout) == (128, "")
        assert done.stderr.startswith(
            "Failed to get the data key required to decrypt the SOPS file.\n\nGroup 0: FAILED"
        )
        assert f"  {identity.to_public()}: FAILED" in done.stderr


def test_changed_ciphertext_is_25(sops: Sops, identity: Any) -> None:
    file = sops.encrypt("A=one\nB=two\n", identity)
    text = file.read_text()
    at = text.index("data:") + 5
    file.write_text(text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :])
    done = sops("decrypt", str(file), SOPS_AGE_KEY=str(identity))
    assert (done.returncode, done.stdout) == (25, "")
    assert "Could not decrypt with AES_GCM: cipher: message authentication failed" in done.stderr


def test_a_value_is_bound_to_its_key(sops: Sops, identity: Any) -> None:
    file = sops.encrypt("A=one\nB=two\n", identity)
    file.write_text(file.read_text().replace("A=", "C=", 1))
    assert sops("decrypt", str(file), SOPS_AGE_KEY=str(identity)).returncode == 25


def test_changed_order_and_changed_open_value_are_51(sops: Sops, identity: Any) -> None:
    file = sops.encrypt("A=one\nB=two\nC_unencrypted=three\n", identity)
    good = file.read_text()
    swapped(file, 0, 1)
    done = sops("decrypt", str(file), SOPS_AGE_KEY=str(identity))
    assert (done.returncode, done.stdout) == (51, "")
    assert done.stderr.startswith("MAC mismatch. File has ")
    assert sops("decrypt", "--ignore-mac", str(file), SOPS_AGE_KEY=str(identity)).returncode == 0
    file.write_text(good.replace("=three", "=four"))
    assert sops("decrypt", str(file), SOPS_AGE_KEY=str(identity)).returncode == 51


def test_the_mac_is_over_the_values_in_order(sops: Sops, identity: Any) -> None:
    file = sops.encrypt("# note\nA=one\nB=\nC_unencrypted=three\n", identity)
    fields = dict(line.split("=", 1) for line in file.read_text().splitlines() if not line.startswith("#"))
    armored = fields["sops_age__list_0__map_enc"].split("\\n")
    assert (armored[0], armored[-2:]) == (
        "-----BEGIN AGE ENCRYPTED FILE-----",
        ["-----END AGE ENCRYPTED FILE-----", ""],
    )
    key = pyrage.decrypt(base64.b64decode("".join(armored[1:-2])), [identity])
    found = re.fullmatch(r"ENC\[AES256_GCM,data:(.+),iv:(.+),tag:(.+),type:str\]", fields["sops_mac"])
    data, iv, tag = map(base64.b64decode, found.groups() if found else ())
    mac = AESGCM(key).decrypt(iv, data + tag, fields["sops_lastmodified"].encode())
    assert (len(iv), mac.decode()) == (32, hashlib.sha512(b"onethree").hexdigest().upper())


def test_missing_plain_and_unnamed_files(sops: Sops, identity: Any) -> None:
    done = sops("decrypt", "none.env")
    assert (done.returncode, done.stderr) == (
        100,
        f'Error: cannot operate on non-existent file "{sops.folder}/none.env"\n',
    )
    (sops.folder / "plain.env").write_text("A=1\n")
    assert sops("decrypt", "plain.env").returncode == 1
    # By its name it is a binary file: who reads it as dotenv must say what it is to become.
    file = sops.encrypt("A=1\n", identity).rename(sops.folder / "secrets")
    assert sops("decrypt", str(file), SOPS_AGE_KEY=str(identity)).returncode == 1
    done = sops("decrypt", "--input-type", "dotenv", str(file), SOPS_AGE_KEY=str(identity))
    assert (done.returncode, "no binary data found in tree" in done.stderr) == (4, True)


def test_an_encrypted_file_is_not_encrypted_again(sops: Sops, identity: Any) -> None:
    file = sops.encrypt("A=1\n", identity)
    assert sops("encrypt", "--age", str(identity.to_public()), str(file)).returncode == 203


def test_set_changes_one_line(sops: Sops, identity: Any) -> None:
    file = sops.encrypt("A=one\nB=two\n", identity)
    before = file.read_text().split("\n")
    key = {"SOPS_AGE_KEY": str(identity)}
    assert sops("set", "--value-stdin", str(file), '["A"]', given='"new\\nline"', **key).returncode == 0
    assert file.read_text().split("\n")[1] == before[1]
    assert sops("set", str(file), '["C"]', '"three"', **key).returncode == 0
    assert sops.values(file, identity) == {"A": "new\nline", "B": "two", "C": "three"}
    assert sops("set", str(file), '["C"]', "three", **key).returncode == 7
    assert sops("set", "none.env", '["C"]', '"three"', **key).returncode == 2


def test_json_files(sops: Sops, identity: Any) -> None:
    content = {"a": {"b": ["x", 1, 1.5, True, None, ""]}, "c_unencrypted": "open"}
    (sops.folder / "x.json").write_text(json.dumps(content))
    assert sops("encrypt", "--in-place", "--age", str(identity.to_public()), "x.json").returncode == 0
    done = sops("decrypt", "x.json", SOPS_AGE_KEY=str(identity))
    assert json.loads(done.stdout) == content


def test_metadata_missing_and_other_kinds_of_keys(double: Sops) -> None:
    (double.folder / "plain.env").write_text("A=1\n")
    assert double("decrypt", "plain.env").stderr == "sops metadata not found\n"
    (double.folder / "kms.env").write_text("A=ENC[]\nsops_kms__list_0__map_arn=arn:aws:kms:eu-central-1:1:key/x\n")
    done = double("decrypt", "kms.env")
    assert done.returncode == 128
    assert "arn:aws:kms:eu-central-1:1:key/x: FAILED\n    - | this double of sops knows no kms" in done.stderr


@pytest.mark.skipif(shutil.which("age") is None, reason="no command age (Debian: age)")
def test_the_command_age_does_the_same(double: Sops, identity: Any, stranger: Any) -> None:
    (double.folder / "pyrage.py").write_text("raise ImportError\n")
    file = double.encrypt("A=1\n", identity)
    without = {"PYTHONPATH": str(double.folder)}
    assert double("decrypt", str(file), SOPS_AGE_KEY=str(identity), **without).stdout == "A=1\n"
    done = double("decrypt", str(file), SOPS_AGE_KEY=str(stranger), **without)
    assert (done.returncode, "identity did not match any of the recipients" in done.stderr) == (128, True)
    options = ("--age", str(identity.to_public()), "--filename-override", "y.env")
    file.write_text(double("encrypt", *options, given="B=2\n", **without).stdout)
    assert double.values(file, identity) == {"B": "2"}


@pytest.fixture(scope="module")
def sops_age() -> Path:
    """The folder with npm's sops-age, which shares no code with the double."""
    if not (shutil.which("node") and (npm := shutil.which("npm"))):
        pytest.skip("no node and npm")
    if not (SOPS_AGE / "node_modules/sops-age").is_dir():
        SOPS_AGE.mkdir(parents=True, exist_ok=True)
        options = ("--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(SOPS_AGE))
        done = subprocess.run([npm, "install", *options, "sops-age@4.0.2"], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"npm cannot install sops-age: {done.stderr[-200:]}")
    return SOPS_AGE


def test_sops_age_reads_what_the_double_writes(double: Sops, identity: Any, stranger: Any, sops_age: Path) -> None:
    file = double.encrypt(PLAIN, stranger, identity)
    double("set", str(file), '["ADDED"]', '"later"', SOPS_AGE_KEY=str(stranger))
    script = "require('sops-age').decryptSops({path: process.argv[1]}).then(tree => console.log(JSON.stringify(tree)))"
    env = {"PATH": os.environ["PATH"], "HOME": str(double.folder), "SOPS_AGE_KEY": str(identity)}
    done = subprocess.run(
        ["node", "-e", script, str(file)], cwd=sops_age, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {**{key: value for key, (unused, value) in HARD.items()}, "ADDED": "later"}
