"""What a page holds is its client's, bounded, and forgotten."""

from __future__ import annotations

import pytest

from infimed.serving.keys import read_keys
from infimed.serving.media import Look
from infimed.serving.refusals import Refusal
from infimed.serving.web.entrance import COOKIE, MOST, SECONDS, Entrance, set_cookie
from infimed.serving.web.holding import IDLE_SECONDS, PAGES, Held, Holding

KEY = "a-long-enough-key-1"


def held(size: int) -> Held:
    return Held("x.png", "u" * size, Look(b"", (1, 1), "PNG"))


def test_a_page_is_found_by_its_client_only():
    holding = Holding(100)
    page = holding.page("a", "s")
    page.images.append(held(1))
    assert holding.page("a", "s") is page
    assert not holding.page("b", "s").images
    done = holding.finish(page, "ask", {}, {"answer": "x"})
    assert holding.finished("a", done.token) is done
    assert holding.finished("b", done.token) is None
    assert holding.finished("a", "other") is None
    holding.forget("s")
    assert holding.finished("a", done.token) is None and not holding.page("a", "s").images


def test_what_is_not_used_is_forgotten():
    now = [0.0]
    holding = Holding(100, lambda: now[0])
    holding.page("a", "1").images.append(held(1))
    now[0] = IDLE_SECONDS - 1
    assert holding.page("a", "1").images
    now[0] += IDLE_SECONDS + 1
    assert not holding.page("a", "1").images


def test_there_is_room_for_so_many_bytes():
    holding = Holding(100)
    first, second = holding.page("a", "1"), holding.page("a", "2")
    for page in (first, second):
        holding.make_room(page, 50)
        page.images.append(held(50))
    third = holding.page("a", "3")
    holding.make_room(third, 40)
    assert holding.page("a", "2") is second
    assert holding.page("a", "1") is not first, "the one that was not used for longest went"
    with pytest.raises(Refusal):
        holding.make_room(second, 51)


def test_there_are_so_many_pages():
    holding = Holding(100)
    first = holding.page("a", "first")
    for number in range(PAGES):
        holding.page("a", str(number))
    assert holding.page("a", "first") is not first


def test_a_key_is_shown_once_and_a_cookie_stands_for_it(tmp_path):
    (tmp_path / "keys").write_text(f"{KEY}\n")
    keys, now = read_keys(tmp_path / "keys"), [0.0]
    entrance = Entrance(keys, lambda: now[0])
    for form in (b"", b"key=", b"key=wrong", b"other=a", b"key=\xff", b"key=" + KEY[:-1].encode()):
        assert entrance.enter(form) is None
    word = entrance.enter(f"key={KEY}".encode())
    assert word is not None and KEY not in word
    cookies = f"a=b; {COOKIE}={word}"
    assert entrance.client(cookies) == keys.client(f"Bearer {KEY}")
    for wrong in ("", f"{COOKIE}=", f"{COOKIE}={word}x", f"{COOKIE}={KEY}", "\x00;;="):
        assert entrance.client(wrong) is None
    now[0] = SECONDS + 1
    assert entrance.client(cookies) is None
    word = entrance.enter(f"key={KEY}".encode())
    assert entrance.client(f"{COOKIE}={word}") is not None
    entrance.leave(f"{COOKIE}={word}")
    assert entrance.client(f"{COOKIE}={word}") is None


def test_visitors_are_bounded(tmp_path):
    (tmp_path / "keys").write_text(f"{KEY}\n")
    entrance = Entrance(read_keys(tmp_path / "keys"))
    first = entrance.enter(f"key={KEY}".encode())
    for _ in range(MOST):
        entrance.enter(f"key={KEY}".encode())
    assert entrance.client(f"{COOKIE}={first}") is None


def test_the_cookie_is_for_this_page_and_no_script():
    made = set_cookie("word", encrypted=True)
    for part in ("Path=/page", "HttpOnly", "SameSite=Lax", "Secure"):
        assert part in made
    assert "Secure" not in set_cookie("word", encrypted=False)
    assert "Max-Age=0" in set_cookie("", encrypted=False)
