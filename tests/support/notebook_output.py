"""What a notebook's front end makes of what it is sent, for tests of what is displayed."""

import html
import html.parser
import re


def page_of(messages: list[dict]) -> list[dict]:
    """The outputs that a front end shows: an update replaces the display it names, and is lost if there is none."""
    page: list[dict] = []
    for message in messages:
        name = (message["transient"] or {}).get("display_id")
        if message["update"]:
            for output in page:
                output |= {"data": message["data"]} if output["name"] == name else {}
        else:
            page.append({"name": name, "data": message["data"]})
    return [output["data"] for output in page]


def attributes(page: str) -> dict[str, str]:
    """The attributes of the only tag of an HTML text, as a browser reads them."""
    tags = []
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, pairs: tags.append((tag, dict(pairs)))
    parser.feed(page)
    ((tag, found),) = tags
    assert tag == "img"
    return found


def picture(page: str) -> str | None:
    """The address of the first picture of a page."""
    found = re.search('src="(data:image/png;base64,[^"]+)"', page)
    return found and found[1]


def words(page: str) -> str:
    """What a page says, without its tags."""
    return " ".join(html.unescape(re.sub("<[^>]+>", " ", re.sub("<img[^>]+>", "", page))).split())
