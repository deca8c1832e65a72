"""The report page: one offline file, `report.html`, made from what a run left in its folder."""

from kedit.page.folder import PageError
from kedit.page.materials import Card, Firing, Materials
from kedit.page.pictures import fired_uri, picture_uri
from kedit.page.write import PAGE, add_page, leave_page, write_page

__all__ = [
    "PAGE",
    "Card",
    "Firing",
    "Materials",
    "PageError",
    "add_page",
    "fired_uri",
    "leave_page",
    "picture_uri",
    "write_page",
]
