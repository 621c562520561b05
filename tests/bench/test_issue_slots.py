"""Figures of machine code: counts of a listing, and the committed figures of the shipped defaults."""

from __future__ import annotations

import json

import pytest

from bench.aot import issue_slots
from bench.aot.rows import describe
from mspipe_triton.kernels.runtime.launch import KERNELS, cdiv

# A call of a slow path, a loop of two instructions, a jump over one, and padding after the end.
LISTING = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;              /* 0x00000a00ff017b82 */
                                                                       /* 0x000fe20000000800 */
        /*0010*/                   LDGSTS.E [R4], desc[UR4][R2.64] ;   /* 0x0000000002047fae */
        /*0020*/                   LDGSTS.E.BYPASS.128 [R4+0x10], desc[UR4][R2.64] ;
        /*0030*/               @P1 LDGSTS.E.64 [R4+0x20], desc[UR4][R2.64], P0 ;
        /*0040*/                   SHFL.BFLY PT, R5, R4, 0x1, 0x1f ;
        /*0050*/               @P0 BRA 0x40 ;
        /*0060*/              @!P2 BRA 0x80 ;
        /*0070*/                   CALL.REL.NOINC 0xc0 ;
        /*0080*/                   BRA.DIV ~URZ, 0xf0 ;
        /*0090*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*00a0*/               @P0 EXIT ;
        /*00b0*/                   EXIT ;
        /*00c0*/                   MUFU.RCP R5, R4 ;
        /*00d0*/                   RET.REL.NODEC R2 0x0 ;
        /*00e0*/                   BRA 0xe0;
        /*00f0*/                   NOP;
"""


def test_reachable_instructions_count_once() -> None:
    counts = issue_slots.count(issue_slots.reachable(issue_slots.parse(LISTING)))
    assert counts == {
        "instructions": 12, "loops": 1, "barriers": 1, "shuffles": 1, "calls": 1,
        "copies_4": 1, "copies_8": 1, "copies_16": 1,
    }  # fmt: skip


def test_floor_is_instructions_over_issue_rate() -> None:
    cycles = 132 * 4  # programs of 1,000 instructions that run in parallel
    assert issue_slots.floor_us(1000, 1, cycles) == pytest.approx(1000 / 1980)
    assert issue_slots.floor_us(1000, 2, cycles) == pytest.approx(2000 / 1980)


def test_committed_figures_are_of_the_shipped_defaults_and_in_the_page() -> None:
    document = json.loads(issue_slots.TABLE.result_path.read_text())
    assert tuple(document["kernels"]) == issue_slots.KERNELS
    for name, sides in document["kernels"].items():
        config = KERNELS[name].configs["float32"][0]
        assert sides["after"]["configuration"] == describe(config), "run `python -m bench.aot.issue_slots`"
        assert sides["after"]["stack"] == 0
        if "floor_us" in sides["after"]:
            floor = issue_slots.floor_us(sides["after"]["instructions"], config.num_warps, issue_slots.ROOTS)
            assert sides["after"]["floor_us"] == round(floor, 2)
        if "rounds" in sides["after"]:
            rounds = {str(batch): cdiv(batch, config["CHUNK"]) for batch in issue_slots.BATCHES}
            assert sides["after"]["rounds"] == rounds
    assert issue_slots.TABLE.path.read_text() == issue_slots.TABLE.page_with(issue_slots.table(document["kernels"]))
