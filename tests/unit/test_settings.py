"""Settings: where a value comes from, what is refused, and which files belong to a service."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busworker import places, settings
from busworker.errors import ConfigurationError
from busworker.plain import escaped, escaped_json
from busworker.urls import bus_identity, hide_password


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of the test's own, which is the current folder; no variable of ours is set."""
    for name in [name for name in os.environ if name.startswith("BUSWORKER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(project: Path, text: str) -> None:
    (project / "pyproject.toml").write_text(f"[tool.busworker]\n{text}\n")


def test_each_source_wins_over_the_next(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.broker_of() == f"filesystem://{project}/state/busworker/bus"
    write(project, 'broker = "memory://project"')
    assert settings.broker_of() == "memory://project"
    assert settings.broker_of("memory://declared") == "memory://declared"
    monkeypatch.setenv("BUSWORKER_BROKER", "memory://variable")
    assert settings.broker_of("memory://declared") == "memory://variable"
    assert settings.broker_of("memory://declared", "memory://option") == "memory://option"


def test_an_empty_variable_counts_as_none(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUSWORKER_GRACE", " ")
    assert settings.require(settings.GRACE) == 25.0


def test_the_nearest_project_upward_is_read(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(project, 'grace = "2m"')
    folder = project / "a" / "b"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert settings.require(settings.GRACE) == 120.0
    (project / "a" / "pyproject.toml").write_text("")
    assert settings.require(settings.GRACE) == 25.0


def test_a_removed_current_folder_is_no_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = project / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert settings.project() == (None, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('brokr = "x"', "did you mean 'broker'?"),
        ("log-level = 'info'", "did you mean 'log_level'?"),
        ("zzzzzz = 1", "there are broker, app"),
        ("processes = 2", "use --processes or BUSWORKER_PROCESSES"),
        ("= 1", "can't be read"),
    ],
)
def test_a_key_that_does_not_exist_is_refused_with_the_near_one(project: Path, text: str, said: str) -> None:
    write(project, text)
    with pytest.raises(ConfigurationError) as caught:
        settings.find(settings.APP)
    assert said in str(caught.value)
    assert "pyproject.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        (settings.GRACE, "soon"),
        (settings.GRACE, True),
        (settings.GRACE, -1),
        (settings.LOG_LEVEL, "loud"),
        (settings.LOG_FORMAT, "xml"),
        (settings.PROCESSES, "0"),
        (settings.PROCESSES, "1001"),
        (settings.PROCESSES, "two"),
        (settings.SERVICE, "Email"),
        (settings.INSTANCE, "a b"),
        (settings.BROKER, 7),
        (settings.BROKER, ""),
    ],
)
def test_a_value_out_of_range_names_where_it_was_given(setting: settings.Setting[object], value: object) -> None:
    with pytest.raises(ConfigurationError):
        setting.read(value, setting.option)


@pytest.mark.parametrize("setting", settings.SETTINGS, ids=lambda setting: str(setting.name))
def test_every_setting_is_declared_in_full(setting: settings.Setting[object]) -> None:
    assert setting.variable == f"BUSWORKER_{setting.name.upper()}"
    assert setting.option.startswith("--")
    assert setting.kind
    assert setting.help.endswith(".")
    if setting.default is not None:
        assert setting.read(setting.default, "default") == setting.default


# Passwords and identities


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://u:secret@h:5672/v", "amqp://u:***@h:5672/v"),
        ("amqp://:secret@h", "amqp://:***@h"),
        ("amqp://u:se/c:r@et@h", "amqp://u:***@h"),
        ("amqp://u:a@h;amqp://u:b@i", "amqp://u:***@h;amqp://u:***@i"),
        ("amqps://h?ssl_password=secret&x=1", "amqps://h?ssl_password=***&x=1"),
        ("amqp://h:5672/", "amqp://h:5672/"),
        ("filesystem:///home/a@b/bus", "filesystem:///home/a@b/bus"),
        ("connecting to amqp://u:secret@h failed", "connecting to amqp://u:***@h failed"),
    ],
)
def test_a_password_is_hidden(url: str, shown: str) -> None:
    assert hide_password(url) == shown


@given(st.text(st.characters(exclude_characters=";", exclude_categories=("Cs", "Zs", "Zl", "Zp", "Cc"))))
def test_no_password_shows_through(password: str) -> None:
    shown = hide_password(f"amqp://user:{password}SECRET@host/")
    assert "SECRET" not in shown
    assert shown == "amqp://user:***@host/"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("amqp://u:p@host", "amqp://host:5672/"),
        ("amqp://host//", "amqp://host/%2F"),
        ("amqp://HOST/v?queue_type=classic", "amqp://host/v"),
        ("amqp://a;amqp://b", "amqp://b; amqp://a"),
        ("memory://", "memory://default"),
        ("filesystem:///a/../b/?durability=normal", "filesystem:///b"),
    ],
)
def test_spellings_of_one_bus_are_one(one: str, other: str) -> None:
    assert bus_identity(one) == bus_identity(other)
    assert places.instance_key("s", one, "i") == places.instance_key("s", other, "i")


def test_different_services_have_different_keys() -> None:
    keys = {
        places.instance_key(*parts)
        for parts in (
            ("a", "memory://", "x"),
            ("a", "memory://b", "x"),
            ("b", "memory://", "x"),
            ("a", "memory://", "y"),
        )
    }
    assert len(keys) == 4
    assert all(len(key) == 16 and int(key, 16) >= 0 for key in keys)


@given(st.text() | st.from_regex(r"(amqp|filesystem|memory)://[a-z:@/?;\[\]%0-9]*", fullmatch=True))
def test_any_text_has_an_identity_that_hiding_the_password_keeps(url: str) -> None:
    assert bus_identity(hide_password(url)) == bus_identity(url)


# Places


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_folders_are_this_users_alone(project: Path) -> None:
    key = places.instance_key("email", "memory://", "default")
    (project / "state").mkdir()
    (project / "state" / "busworker").mkdir(mode=0o755)
    assert places.socket_path(key) == project / "run" / "busworker" / f"{key}.sock"
    assert places.lock_path(key) == project / "state" / "busworker" / key / "lock"
    assert places.board_path(key, "welcome") == project / "state" / "busworker" / key / "welcome.board"
    folders = (project / "run" / "busworker", project / "state" / "busworker", project / "state" / "busworker" / key)
    assert [mode(folder) for folder in folders] == [0o700] * 3


def test_without_a_runtime_folder_there_is_a_fixed_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(places, "_FALLBACK", str(tmp_path))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_RUNTIME_DIR", value)
        assert places.runtime_dir() == tmp_path / f"busworker-run-{os.getuid()}"
    assert mode(places.runtime_dir()) == 0o700


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(ConfigurationError, match="can't be used"):
        places.private_folder(tmp_path / "x")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    with pytest.raises(ConfigurationError, match="isn't this user's own"):
        places.private_folder(folder)


def test_the_default_broker_survives_odd_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "a b?#%"))
    assert places.default_broker() == f"filesystem://{tmp_path}/a%20b%3F%23%25/busworker/bus"


# Escaping


@given(st.text(st.characters(codec=None)))
def test_escaped_text_is_one_printable_line(text: str) -> None:
    safe = escaped(text)
    assert safe.splitlines() in ([], [safe])
    assert not any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in safe)
    safe.encode()


def test_escaped_json_means_the_same() -> None:
    assert escaped_json('{"a":"\x9b31m\u202e"}') == '{"a":"\\u009b31m\\u202e"}'
