"""The state of a training on disk: written by a thread, checked when read, and the last two kept."""

import pytest
import torch

from clipline.train.state import CheckpointManager, State, random_state, set_random_state


def state(value, **metadata):
    return State(
        {"weight": torch.full((3,), float(value)), "counter": torch.tensor(value)}, {"value": value, **metadata}
    )


def save(checkpoints, *values):
    for value in values:
        checkpoints.save(value, state(value), lambda: None)
    checkpoints.poll(wait=True)


def test_the_last_two_states_are_kept(tmp_path):
    checkpoints = CheckpointManager(tmp_path / "states")
    assert checkpoints.newest() is None
    save(checkpoints, 8, 9, 10, 11)
    assert [path.name for path in sorted(checkpoints.folder.iterdir())] == [
        "state-000000000010.safetensors",
        "state-000000000011.safetensors",
    ]
    newest = CheckpointManager(checkpoints.folder).newest()
    assert newest.metadata == {"value": 11}
    assert torch.equal(newest.tensors["weight"], torch.full((3,), 11.0))
    assert newest.tensors["counter"].item() == 11


def test_metadata_is_read_back_exactly(tmp_path):
    checkpoints, numbers = CheckpointManager(tmp_path), [0.1 + 0.2, 1e-310, float("inf"), 2**100, -0.0]
    checkpoints.save(1, state(1, numbers=numbers), lambda: None)
    checkpoints.poll(wait=True)
    assert checkpoints.newest().metadata["numbers"] == numbers


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\0" * len(b)])
def test_a_damaged_state_is_replaced_by_the_one_before(tmp_path, capsys, damage):
    checkpoints = CheckpointManager(tmp_path)
    save(checkpoints, 1, 2)
    newest = max(tmp_path.iterdir())
    newest.write_bytes(damage(newest.read_bytes()))
    assert checkpoints.newest().metadata["value"] == 1
    assert f"{newest}: damaged" in capsys.readouterr().err


def test_later_changes_are_not_saved(tmp_path):
    checkpoints, tensor = CheckpointManager(tmp_path), torch.zeros(1_000_000)
    checkpoints.save(1, State({"weight": tensor}, {}), lambda: None)
    tensor += 1
    checkpoints.poll(wait=True)
    assert not checkpoints.newest().tensors["weight"].any()


def test_callbacks_come_once_durable_and_in_order(tmp_path):
    checkpoints, called = CheckpointManager(tmp_path), []
    for step in (1, 2):
        checkpoints.save(
            step, state(step), lambda step=step: called.append((step, checkpoints.newest().metadata["value"]))
        )
        assert (step, step) not in called
    checkpoints.poll(wait=True)
    checkpoints.poll()
    assert called == [(1, 1), (2, 2)]


def test_a_write_error_is_raised_by_the_next_poll(tmp_path):
    (tmp_path / "states").write_text("a file stands where the folder should be")
    checkpoints = CheckpointManager(tmp_path / "states")
    checkpoints.save(1, state(1), lambda: pytest.fail("not durable"))
    with pytest.raises(OSError, match="states"):
        checkpoints.poll(wait=True)


def test_clear_deletes_all_states(tmp_path):
    checkpoints = CheckpointManager(tmp_path / "states")
    save(checkpoints, 1)
    checkpoints.clear()
    assert not checkpoints.folder.exists()
    assert checkpoints.newest() is None


def test_the_random_state_is_restored():
    torch.manual_seed(3)
    torch.rand(7)
    kept = random_state()
    expected = torch.rand(5)
    torch.rand(100)
    set_random_state(kept)
    assert torch.equal(torch.rand(5), expected)
