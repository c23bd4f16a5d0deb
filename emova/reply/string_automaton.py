"""The bytes of a reply's text as an automaton: what may stand inside a JSON string, or in plain text.

Shape letters: A automaton states.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

# Bytes of a string's inside, as json.dumps(ensure_ascii=False) writes it: UTF-8 without controls, and the escapes
# \" \\ \b \f \n \r \t and \u00xx for the other controls. The state NORMAL is the only one where the string may end.
NORMAL, CONT1, CONT2, CONT3, AFTER_E0, AFTER_ED, AFTER_F0, AFTER_F4, ESCAPE, HEX1, HEX2, HEX3, HEX4 = range(13)
STATES = 13
DEAD = -1


@lru_cache(maxsize=2)
def transitions(json_string: bool) -> np.ndarray:
    """Table ``[A + 1, 256]`` of next states; the last row keeps the dead state dead."""
    table = np.full((STATES + 1, 256), DEAD, dtype=np.int64)
    table[NORMAL, 0x20:0x80] = NORMAL
    table[NORMAL, 0xC2:0xE0] = CONT1
    table[NORMAL, 0xE1:0xF0] = CONT2
    table[NORMAL, 0xE0] = AFTER_E0
    table[NORMAL, 0xED] = AFTER_ED
    table[NORMAL, 0xF1:0xF4] = CONT3
    table[NORMAL, 0xF0] = AFTER_F0
    table[NORMAL, 0xF4] = AFTER_F4
    table[CONT1, 0x80:0xC0] = NORMAL
    table[CONT2, 0x80:0xC0] = CONT1
    table[CONT3, 0x80:0xC0] = CONT2
    table[AFTER_E0, 0xA0:0xC0] = CONT1
    table[AFTER_ED, 0x80:0xA0] = CONT1  # no surrogates
    table[AFTER_F0, 0x90:0xC0] = CONT2
    table[AFTER_F4, 0x80:0x90] = CONT2
    if json_string:
        table[NORMAL, ord('"')] = DEAD  # only the token that is exactly a quote may end the string
        table[NORMAL, ord("\\")] = ESCAPE
        for escaped in b'"\\bfnrt':
            table[ESCAPE, escaped] = NORMAL
        table[ESCAPE, ord("u")] = HEX1
        table[HEX1, ord("0")] = HEX2
        table[HEX2, ord("0")] = HEX3
        table[HEX3, [ord("0"), ord("1")]] = HEX4
        table[HEX4, [ord(digit) for digit in "0123456789abcdef"]] = NORMAL
    else:
        table[NORMAL, [ord("\n"), ord("\t")]] = NORMAL
    return table
