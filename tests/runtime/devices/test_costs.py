"""What is counted in a compiled program, against closed forms; loops count as often as they run."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ctrl_jax.runtime.devices.chips import CHIPS, chip_of
from ctrl_jax.runtime.devices.compiled_text import arrays_of
from ctrl_jax.runtime.devices.costs import costs_of, group_size
from ctrl_jax.runtime.devices.mesh import MeshOptions, make_mesh
from ctrl_jax.runtime.devices.topology import described_devices

ROWS, WIDTH, TRIPS = 32, 64, 7
PRODUCT = 2 * ROWS * WIDTH**2
WEIGHTS, STATES = (jax.ShapeDtypeStruct((n, WIDTH), jnp.float32) for n in (WIDTH, ROWS))


def scanned(w, x):
    return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=TRIPS)[0].sum()


def nested(w, x):
    def outer(x, _):
        return jax.lax.fori_loop(0, 3, lambda i, x: jnp.tanh(x @ w), x), None

    return jax.lax.scan(outer, x, None, length=TRIPS)[0].sum()


def until(w, x):
    return jax.lax.while_loop(lambda x: jnp.sum(x) > 0, lambda x: jnp.tanh(x @ w), x).sum()


def counted(function, *arguments, devices=1):
    return costs_of(jax.jit(function).lower(*arguments).compile().as_text() or "", devices)


@pytest.mark.parametrize(
    ("function", "products", "unknown"),
    [(scanned, TRIPS, 0), (jax.grad(scanned), 3 * TRIPS, 0), (nested, 3 * TRIPS, 0), (until, 1, 1)],
)
def test_a_loop_counts_as_often_as_it_runs(function, products, unknown):
    found = counted(function, WEIGHTS, STATES)
    assert (found.flops, found.unknown) == (products * PRODUCT, unknown)
    assert not found.collectives


def test_bytes_of_a_loop_are_those_of_what_it_reads_and_writes():
    entry = 4 * WIDTH * (WIDTH + 2 * ROWS)  # the weights, and a state in and out
    found = counted(scanned, WEIGHTS, STATES)
    assert TRIPS * entry <= found.bytes <= 2 * TRIPS * entry


def test_convolutions_count_without_their_padding():
    image, side, taps = (4, 15, 15, 8), 15, 3
    kernel = (taps, taps, 8, 16)
    names = ("NHWC", "HWIO", "NHWC")

    def apart(kernel, x):
        grouped = kernel[:, :, :2]
        same = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=names)
        strided = jax.lax.conv_general_dilated(x, kernel, (2, 2), "VALID", dimension_numbers=names)
        groups = jax.lax.conv_general_dilated(
            x, grouped, (1, 1), "VALID", dimension_numbers=names, feature_group_count=4
        )
        return sum(jnp.sum(y**2) for y in (same, strided, groups))

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (kernel, image)]
    places = {
        "same": (taps * side - 2) ** 2 * 8,
        "strided": (taps * (side // 2)) ** 2 * 8,
        "groups": (taps * (side - 2)) ** 2 * 2,
    }
    forward = 2 * 4 * 16 * sum(places.values())
    assert counted(apart, *shapes).flops == forward
    # Twice more for the gradients in the image and in the kernel.
    assert counted(jax.grad(apart, argnums=(0, 1)), *shapes).flops == 3 * forward


LOOPED = """
%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%begun (p: f32[8,4]) -> (f32[8,4], f32[32,4]) {
  %p = f32[8,4]{1,0} parameter(0)
  %all-gather.1 = f32[32,4]{1,0} all-gather(%p), channel_id=7, replica_groups=[2,4]<=[8]
  ROOT %t = (f32[8,4]{1,0}, f32[32,4]{1,0}) custom-call(%all-gather.1), custom_call_target="Start"
}

%ended (p: f32[8,4]) -> f32[32,4] {
  %p = f32[8,4]{1,0} parameter(0)
  ROOT %all-gather.2 = f32[32,4]{1,0} all-gather(%p), channel_id=7, replica_groups=[2,4]<=[8]
}

%all-reduce-scatter (p: f32[32,4]) -> f32[8,4] {
  %p = f32[32,4]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %all-reduce.1 = f32[32,4]{1,0} all-reduce(%p), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  ROOT %cut = f32[8,4]{1,0} dynamic-slice(%all-reduce.1, %zero, %zero), dynamic_slice_sizes={8,4}
}

%body (state: (s32[], f32[8,4], s32[])) -> (s32[], f32[8,4], s32[]) {
  %state = (s32[], f32[8,4]{1,0}, s32[]) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %n = s32[] get-tuple-element(%state), index=2
  %two = s32[] constant(2)
  %next = s32[] add(%i, %two)
  %x = f32[8,4]{1,0} get-tuple-element(%state), index=1
  %start = (f32[8,4]{1,0}, f32[32,4]{1,0}) fusion(%x), kind=kCustom, calls=%begun
  %whole = f32[32,4]{1,0} fusion(%x), kind=kCustom, calls=%ended
  %part = f32[8,4]{1,0} fusion(%whole), kind=kCustom, calls=%all-reduce-scatter
  ROOT %t = (s32[], f32[8,4]{1,0}, s32[]) tuple(%next, %part, %n)
}

%condition (state: (s32[], f32[8,4], s32[])) -> pred[] {
  %state = (s32[], f32[8,4]{1,0}, s32[]) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %n = s32[] get-tuple-element(%state), index=2
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[8,4]) -> f32[8,4] {
  %x = f32[8,4]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %seven = s32[] constant(7)
  %first = (s32[], f32[8,4]{1,0}, s32[]) tuple(%zero, %x, %seven)
  %loop = (s32[], f32[8,4]{1,0}, s32[]) while(%first), condition=%condition, body=%body
  %y = f32[8,4]{1,0} get-tuple-element(%loop), index=1
  %sent = f32[8,4]{1,0} collective-permute(%y), channel_id=9, source_target_pairs={{0,1},{1,0}}
  ROOT %all-reduce.2 = f32[8,4]{1,0} all-reduce(%sent), replica_groups={}, to_apply=%add
}
"""


def test_exchanges_count_once_for_each_time_and_as_a_device_sends_them():
    found = costs_of(LOOPED, devices=8)
    size, trips = 4 * 8 * 4, 4  # from 0 in steps of 2 below 7
    assert found.unknown == 0 and found.flops == 0
    assert found.by_kind() == {
        "collective-permute": {"places": 1, "times": 1, "sent": size},
        "all-reduce": {"places": 1, "times": 1, "sent": 2 * size * 7 / 8},
        "all-gather": {"places": 1, "times": trips, "sent": trips * size * 3},
        "reduce-scatter": {"places": 1, "times": trips, "sent": trips * 4 * size * 3 / 4},
    }
    assert [one.looped for one in found.collectives] == [False, False, True, True]


@pytest.mark.parametrize(
    ("topology", "chips"), [("v5e:1x1", 1), ("v6e:1x2", 2), ("v5p:2x1x1", 2), ("v5e:4x4", 16)]
)
def test_slices_smaller_than_a_host_are_there_too(topology, chips):
    pytest.importorskip("libtpu")
    assert len(described_devices(topology)) == chips


def test_a_slice_of_no_form_is_refused():
    pytest.importorskip("libtpu")
    with pytest.raises(ValueError, match="libtpu knows no such slice"):
        described_devices("v5e:1x4")


@pytest.mark.parametrize("topology", ["v5e:2x2", "v6e:2x2"])
def test_a_slice_counts_the_same(topology):
    pytest.importorskip("libtpu")
    mesh = make_mesh(MeshOptions(2, 2), described_devices(topology))

    def placed(shape, *spec):
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding)

    given = placed((256, 256), None, "model"), placed((64, 256), "data")
    lowered = jax.jit(jax.grad(scanned)).trace(*given).lower(lowering_platforms=("tpu",))
    found = costs_of(lowered.compile().as_text() or "", 4)
    assert (found.flops, found.unknown) == (3 * TRIPS * 2 * 32 * 256 * 128, 0)
    assert {one.kind for one in found.collectives} == {"all-gather", "all-reduce"}
    assert mesh.devices.flat[0].device_kind in CHIPS


def test_sizes_and_groups_in_every_form_that_compilers_write():
    near, far, flag = arrays_of("(bf16[8,128]{1,0:T(8,128)(2,1)S(1)}, f32[4], /*index=2*/pred[])")
    assert (near.size, near.near, far.size, far.near, flag.size) == (2048, True, 16, False, 1)
    forms = {
        "replica_groups=[4,2]<=[8]": 2,
        "replica_groups=[2,4]<=[4,2]T(1,0), x=1": 4,
        "replica_groups={{0,1,2},{3,4,5}}": 3,
        "replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}": 4,
        "replica_groups=mesh['a'=8] {'a':(2)4}": 4,
        "replica_groups={}": 8,
    }
    assert {form: group_size(form, 8) for form in forms} == forms


def test_peaks_are_known_of_tpus_by_the_name_of_their_kind():
    found = chip_of("TPU v5 lite")
    assert found is not None and found.name == "v5e" and chip_of("cpu") is None
    for chip in CHIPS.values():
        assert chip.source.startswith("https://") and chip.flops > 100 * chip.bandwidth
