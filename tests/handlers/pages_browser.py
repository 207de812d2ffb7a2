"""A browser without script: follows links, reads forms, sends exactly what such a browser would send."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

import aiohttp


@dataclass
class Form:
    """A form as it stands on a page: what would be sent if nothing was touched."""

    action: str
    method: str
    multipart: bool
    values: list[tuple[str, str]] = field(default_factory=list)
    buttons: list[tuple[str, str]] = field(default_factory=list)
    names: set[str] = field(default_factory=set)

    def filled(self, changes: Mapping[str, Any], button: tuple[str, str] | None) -> list[tuple[str, str]]:
        """Return what is sent after filling in. An unknown name is a mistake of the test (or a field that is missing on the page)."""
        unknown = set(changes) - self.names
        assert not unknown, f"not on the form {self.action}: {sorted(unknown)}"
        sent = [(name, value) for name, value in self.values if name not in changes]
        for name, value in changes.items():
            sent += [(name, one) for one in (value if isinstance(value, list) else [value])]
        return sent + ([button] if button else [])


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.links: list[str] = []
        self.text: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self._form: Form | None = None
        self._select = ""
        self._first_option: str | None = None
        self._textarea: str | None = None
        self._skip = 0

    def handle_starttag(self, tag: str, attributes: Sequence[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.tags.append((tag, given))
        if tag in ("script", "style"):
            self._skip += 1
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "form":
            self._form = Form(given.get("action", ""), given.get("method", "get"), "multipart" in given.get("enctype", ""))
            self.forms.append(self._form)
        elif self._form is not None:
            self._field(tag, given)

    def _field(self, tag: str, given: dict[str, str]) -> None:
        assert self._form is not None
        name, kind = given.get("name", ""), given.get("type", "text")
        if tag == "input" and name:
            self._form.names.add(name)
            if kind in ("checkbox", "radio"):
                if "checked" in given:
                    self._form.values.append((name, given.get("value", "on")))
            elif kind != "file":
                self._form.values.append((name, given.get("value", "")))
        elif tag == "select":
            self._select, self._first_option = name, None
            self._form.names.add(name)
        elif tag == "option" and self._select:
            if self._first_option is None:
                self._first_option = given.get("value", "")
            if "selected" in given:
                self._form.values.append((self._select, given.get("value", "")))
                self._first_option, self._select = None, ""
        elif tag == "textarea":
            self._textarea = ""
            self._form.names.add(name)
            self._form.values.append((name, ""))
        elif tag == "button":
            self._form.buttons.append((name, given.get("value", "")))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._skip -= 1
        if tag == "form":
            self._form = None
        if tag == "select" and self._form is not None and self._select and self._first_option is not None:
            self._form.values.append((self._select, self._first_option))
        if tag == "select":
            self._select = ""
        if tag == "textarea" and self._form is not None:
            name = self._form.values.pop()[0]
            self._form.values.append((name, self._textarea or ""))
            self._textarea = None

    def handle_data(self, data: str) -> None:
        if self._textarea is not None:
            self._textarea += data
        elif not self._skip:
            self.text.append(data)


@dataclass
class Page:
    """An answer: address after redirects, raw HTML, and what was read from it."""

    status: int
    url: str
    html: str
    headers: Mapping[str, str]
    size: int

    def __post_init__(self) -> None:
        reader = _Reader()
        reader.feed(self.html)
        self.forms, self.links, self.tags = reader.forms, reader.links, reader.tags
        self.text = " ".join("".join(reader.text).split())

    @property
    def path(self) -> str:
        return "/" + self.url.split("/", 3)[3]

    def form(self, action: str, names: Iterable[str] = ()) -> Form:
        """Return the first form with these names whose action ends with `action` (empty: the page's own address)."""
        found = [form for form in self.forms if (form.action.endswith(action) if action else not form.action)]
        assert found, f"no form {action} on {self.url}: {[form.action for form in self.forms]}\n{self.text[:600]}"
        return next((form for form in found if form.names >= set(names)), found[0])


class Browser:
    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.http = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))

    async def get(self, path: str, *, follow: bool = True, headers: Mapping[str, str] | None = None) -> Page:
        return await self._open("GET", path, follow=follow, headers=headers)

    async def post(self, path: str, data: Any, *, follow: bool = True) -> Page:
        return await self._open("POST", path, data=data, follow=follow)

    async def submit(
        self, page: Page, action: str, *, button: tuple[str, str] | None = None, upload: tuple[str, bytes] | None = None, **values: Any
    ) -> Page:
        """Fill in and send the form of a page whose action ends with `action`. `__` in a name stands for a dot."""
        values = {name.replace("__", "."): value for name, value in values.items()}
        form = page.form(action, values)
        if button is not None:
            assert button in form.buttons, f"no button {button} in {form.buttons}"
        sent = form.filled(values, button)
        path = urljoin(page.url, form.action) if form.action else page.url
        if form.method.lower() == "get":
            return await self.get(path + "?" + "&".join(f"{name}={value}" for name, value in sent))
        if not form.multipart:
            return await self.post(path, sent)
        data = aiohttp.FormData(quote_fields=False)  # browsers send the name of a file as it is, in UTF-8
        for name, value in sent:
            data.add_field(name, value)
        if upload is not None:
            data.add_field("file", upload[1], filename=upload[0], content_type="application/octet-stream")
        return await self.post(path, data)

    async def _open(self, method: str, path: str, **options: Any) -> Page:
        follow = options.pop("follow", True)
        url = path if path.startswith("http") else self.base_url + path
        async with self.http.request(method, url, allow_redirects=follow, **options) as answer:
            body = await answer.read()
            kind = answer.headers.get("Content-Type", "")
            text = body.decode() if kind.startswith(("text/", "application/problem")) else ""
            return Page(answer.status, str(answer.url), text, answer.headers, len(body))

    async def close(self) -> None:
        await self.http.close()
