"""The README says what is: its settings table is the one that `ds4trio settings` prints."""

from pathlib import Path

from click.testing import CliRunner

from ds4trio.cli import main

README = Path(__file__).parents[1] / "README.md"


def test_settings_table_is_the_generated_one() -> None:
    printed = CliRunner().invoke(main, ["settings"])
    assert printed.exit_code == 0
    assert printed.output in README.read_text(encoding="utf-8")
