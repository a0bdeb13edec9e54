"""What chips receive, read from compiled programs and from lines written by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vqathinker_jax.parallel import make_mesh
from vqathinker_jax.plan.traffic import received_bytes


def compiled_text(function, *placed) -> str:
    mesh = make_mesh(fsdp=8)
    arguments = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*spec)))
        for shape, spec in placed
    ]
    return jax.jit(function).trace(*arguments).lower().compile().as_text()


def test_a_gathered_matrix_and_a_summed_one():
    # The contracted axis is split: each device has a part of every element of the result.
    text = compiled_text(lambda a, b: a @ b, ((24, 16), (None, "fsdp")), ((16, 40), ("fsdp", None)))
    assert received_bytes(text) == pytest.approx(2 * 7 / 8 * 24 * 40 * 4)


def test_loops_multiply():
    def loop(a, b):
        def step(x, _):
            return jnp.tanh(x @ b @ b.T), None

        return jax.lax.scan(step, a, None, length=5)[0]

    text = compiled_text(loop, ((8, 16), ()), ((16, 40), (None, "fsdp")))
    assert received_bytes(text) == pytest.approx(5 * 2 * 7 / 8 * 8 * 16 * 4)


LOOP = """HloModule m
%body (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %s = f32[4]{0} all-reduce(%p), replica_groups=[2,4]<=[8], to_apply=%add
}

%cond (p: f32[4]) -> pred[] {
  ROOT %t = pred[] constant(true)
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  %g = (bf16[2,8]{1,0}, bf16[16,8]{1,0}) all-gather-start(%q), replica_groups={{0,1,2,3,4,5,6,7}}
  %d = bf16[16,8]{1,0} all-gather-done(%g)
  ROOT %w = f32[4]{0} while(%p), condition=%cond, body=%body
}
"""


def test_loops_of_unknown_length():
    gathered, summed = 7 / 8 * 16 * 8 * 2, 2 * 3 / 4 * 4 * 4
    assert received_bytes(LOOP) is None
    assert received_bytes(LOOP, loop_trips=3) == pytest.approx(gathered + 3 * summed)


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("[2,4]<=[8]", 4),
        ("{{0,1},{2,3}}", 2),
        ("mesh['a'=2,'b'=8] {'b'}", 8),
        ("mesh['a'=2,'b'=8] {'a','b'}", 16),
        ("mesh['a'=2,'b'=8] {'b':(2)4}", 4),
    ],
)
def test_groups_are_read_however_they_are_written(groups, size):
    line = f"  %g = bf16[16,8]{{1,0}} all-gather(%q), replica_groups={groups}, dimensions={{0}}"
    text = f"ENTRY %main (p: f32[4]) -> f32[4] {{\n{line}\n}}\n"
    assert received_bytes(text) == pytest.approx((size - 1) / size * 16 * 8 * 2)


@pytest.mark.parametrize(
    ("operation", "received"),
    [
        # Of 8 chips, each with arrays of 16 x 8 in bfloat16: 256 bytes.
        ("((bf16[16,8]{1,0}), bf16[2,8]{1,0}) reduce-scatter-start(%q)", 7 / 8 * 256),
        ("bf16[2,8]{1,0} reduce-scatter(%q)", 7 / 8 * 256),
        (
            "((bf16[16,8]{1,0}, f32[8]{0}), (bf16[2,8]{1,0}, f32[1]{0})) reduce-scatter-start(%q)",
            7 / 8 * (256 + 32),
        ),
        ("((bf16[16,8]{1,0}), bf16[16,8]{1,0}) all-to-all-start(%q)", 7 / 8 * 256),
        ("bf16[16,8]{1,0} all-to-all(%q)", 7 / 8 * 256),
        ("bf16[16,8]{1,0} all-reduce-start(%q)", 2 * 7 / 8 * 256),
        ("((bf16[2,8]{1,0}, f32[1]{0}), (bf16[16,8], f32[8])) all-gather-start(%q)", 7 / 8 * 288),
    ],
)
def test_operations_that_are_started_count_what_comes_out(operation, received):
    line = f"  %g = {operation}, replica_groups={{{{0,1,2,3,4,5,6,7}}}}, dimensions={{0}}"
    text = f"ENTRY %main (p: f32[4]) -> f32[4] {{\n{line}\n}}\n"
    assert received_bytes(text) == pytest.approx(received)
