"""A page as its parts."""

from html.parser import HTMLParser


class Reader(HTMLParser):
    """Collects tags, attributes and text, what scripts and style sheets hold left out."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self._is_code = False
        self.feed(page)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self._is_code = tag in ("script", "style")
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        self._is_code = False

    def handle_data(self, data):
        if not self._is_code:
            self.text += data

    def values(self, tag: str, name: str) -> list[str]:
        """Of one attribute of all elements of a kind."""
        return [
            value for one, attribute, value in self.attributes if (one, attribute) == (tag, name)
        ]

    @property
    def links(self) -> list[str]:
        """Everything the page could load or lead to."""
        wanted = ("src", "href", "srcset", "action", "poster")
        return [value for _, name, value in self.attributes if name in wanted]
