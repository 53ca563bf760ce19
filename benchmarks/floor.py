"""The floor of the requests: `session.get` of the same URLs in a pool of threads."""

import sys
from concurrent.futures import ThreadPoolExecutor

import requests

from cc_textfile.demo.portal import PASSWORD, USER

CONCURRENCY = 32
STATISTICS = ("getHitRate", "getIsp", "getRegion")
TODAY = "20240501"


def get(url: str, ca: str, channels: int) -> None:
    """Make the requests of a poll by `session.get` in a pool of threads, and look at no response."""
    session = requests.Session()
    session.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=CONCURRENCY))

    def ask(wanted: tuple[str, str]) -> None:
        method, channel = wanted
        if method == "http_code":
            params = {"api_user": USER, "api_key": PASSWORD, "start_time": TODAY, "end_time": TODAY}
            path, params["channel_id"] = "/rest-api/public/statistics/http_code", channel
        else:
            params = {"userName": USER, "apiPasswd": PASSWORD, "channelIds": channel}
            params |= {"startTime": f"{TODAY}1200", "endTime": f"{TODAY}1205"}
            path = f"/api/public/statistics/{method}.do"
        params["timeZone"] = "GMT+8"
        session.get(url + path, params=params, verify=ca, timeout=10).raise_for_status()

    with ThreadPoolExecutor(CONCURRENCY) as pool:
        all_of_them = [(method, str(100000 + n)) for n in range(channels) for method in (*STATISTICS, "http_code")]
        for _ in pool.map(ask, all_of_them):
            pass


if __name__ == "__main__":
    get(sys.argv[1], sys.argv[2], int(sys.argv[3]))
