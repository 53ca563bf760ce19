"""The English names, checked against the names that the portal is known to send and against Unicode's CLDR."""

import re

import pytest
from babel import Locale
from hypothesis import given
from hypothesis import strategies as st

from cc_textfile.portal.translations import TABLE, translate, translate_as_before

KNOWN = {
    "广东省": "Guangdong Province",
    "陕西省": "Shaanxi Province",
    "山西省": "Shanxi Province",
    "广西": "Guangxi",
    "北京": "Beijing",
    "内蒙古": "Inner Mongolia",
    "香港特区": "Hong Kong Special Administrative Region",
    "台湾省": "Taiwan Province",
    "新疆": "Xinjiang",
    "美国": "United States",
    "德国": "Germany",
    "中国电信": "China Telecom",
    "中国联通": "China Unicom",
    "f中国联通": "China Unicom",
    "中国移动": "China Mobile",
    "中国铁通": "China Railcom",
    "长城宽带": "Great Wall Broadband",
    "其他": "other",
}

AS_BEFORE = {
    "海南省": ("Hainan", "Hainan Province"),
    "甘肃省": ("Gansu province", "Gansu Province"),
    "韩国": ("Korea", "South Korea"),
    "新西兰": ("new Zealand", "New Zealand"),
    "欧盟": ("The European Union", "European Union"),
    "华数": ("Number of Chinese", "Wasu"),
    "中电飞华": ("CLP fly", "FibrLINK"),
    "新泽西州": ("New Jersey", "New Jersey"),
    "盈通网络": ("Yeston Network", "Yeston Network"),
    "北京大区其他": ("Big Bejing Area", "Greater Beijing, other"),
}

# fmt: off
PROVINCES = [
    "安徽省", "福建省", "甘肃省", "广东省", "贵州省", "海南省", "河北省", "黑龙江省", "河南省", "湖北省", "湖南省",
    "江苏省", "江西省", "吉林省", "辽宁省", "青海省", "陕西省", "山东省", "山西省", "四川省", "台湾省", "云南省",
    "浙江省",
]
# fmt: on
MUNICIPALITIES = ["北京市", "重庆市", "上海市", "天津市"]
AUTONOMOUS_REGIONS = {
    "广西": "广西壮族自治区",
    "内蒙古": "内蒙古自治区",
    "宁夏": "宁夏回族自治区",
    "西藏": "西藏自治区",
    "新疆": "新疆维吾尔自治区",
}
SPECIAL_REGIONS = ["香港特区", "澳门特区"]

# Two letters are a country or territory; three digits are a continent or a part of one.
# Left out: the euro zone, Outlying Oceania, the United Nations, two made-up places for tests, and "unknown".
NOT_COUNTRIES = {"EZ", "QO", "UN", "XA", "XB", "ZZ"}
CHINESE_NAMES = {
    code: name for code, name in Locale("zh").territories.items() if len(code) == 2 and code not in NOT_COUNTRIES
}
ENGLISH_NAMES = Locale("en").territories
OTHER_THAN_CLDR = {
    "HK": "Hong Kong Special Administrative Region",  # As 香港特区 is called: one place, one name.
    "MO": "Macao Special Administrative Region",  # Likewise.
    "MM": "Myanmar",  # CLDR's short name, and the older exporter's; the long one is "Myanmar (Burma)".
    "TR": "Turkey",  # CLDR's other name, and the older exporter's; the first one is "Türkiye".
    # CLDR 48's names; those of CLDR 49 are longer.
    "HM": "Heard & McDonald Islands",
    "SH": "St. Helena",
    "TF": "French Southern Territories",
}


@pytest.mark.parametrize(("chinese", "english"), KNOWN.items())
def test_known_names(chinese: str, english: str) -> None:
    """The names that dashboards query by are exact, in the older exporter's gauges and everywhere else."""
    assert translate(chinese) == translate_as_before(chinese) == english


@pytest.mark.parametrize(("chinese", "names"), AS_BEFORE.items())
def test_spellings_of_the_older_exporter(chinese: str, names: tuple[str, str]) -> None:
    """The older exporter's gauges keep its spellings; everywhere else the name is the usual one."""
    assert (translate_as_before(chinese), translate(chinese)) == names


def test_the_older_exporter_spelled_all_others_as_now() -> None:
    """No other name of the table differs."""
    assert {name for name in TABLE if translate_as_before(name) != translate(name)} <= set(AS_BEFORE)


def test_all_34_provinces_have_names_of_their_own() -> None:
    """Each of the 34 provinces, regions and municipalities is known, and no two share a name."""
    names = [*PROVINCES, *MUNICIPALITIES, *AUTONOMOUS_REGIONS, *SPECIAL_REGIONS]
    assert len(names) == 34
    assert not [name for name in names if translate(name) == name]
    assert len({translate(name) for name in names}) == 34


@pytest.mark.parametrize("name", PROVINCES)
def test_a_province_keeps_the_word_province(name: str) -> None:
    """With 省 the label ends in the word Province; without it, it is the plain name."""
    plain = translate(name.removesuffix("省"))
    assert translate(name) == f"{plain} Province"
    assert plain.isalpha()
    assert plain.isascii()


@pytest.mark.parametrize(
    "spellings",
    [
        *([name, name.removesuffix("市")] for name in MUNICIPALITIES),
        *AUTONOMOUS_REGIONS.items(),
        ["香港", "香港特区", "香港特别行政区", "中国香港", "中国香港特别行政区"],
        ["澳门", "澳门特区", "澳门特别行政区", "中国澳门", "中国澳门特别行政区"],
        ["台湾", "中国台湾"],
        ["科特迪瓦", "象牙海岸"],
        ["捷克", "捷克共和国"],
        ["巴勒斯坦", "巴勒斯坦领土"],
        ["中国联通", "f中国联通"],
        ["教育网", "中国教育网", "中国教育和科研计算机网"],
        ["科技网", "中国科技网"],
        ["其他", "其它"],
    ],
    ids=lambda spellings: spellings[0],
)
def test_spellings_of_one_thing_share_a_name(spellings: list[str]) -> None:
    """Rows of one place or carrier end in one series, however the portal spells it."""
    assert not [name for name in spellings if translate(name) == name]
    assert len({translate(name) for name in spellings}) == 1


def test_only_provinces_are_called_provinces() -> None:
    """Only the 23 names with 省 have the word Province."""
    assert {name for name, english in TABLE.items() if "province" in english.lower()} == set(PROVINCES)


def test_every_country_that_cldr_names_in_chinese() -> None:
    """A country's Chinese name becomes CLDR's English one, but for the few that are listed with their reasons."""
    assert len(CHINESE_NAMES) > 250
    expected = {code: OTHER_THAN_CLDR.get(code, ENGLISH_NAMES[code]) for code in CHINESE_NAMES}
    assert {code: translate(name) for code, name in CHINESE_NAMES.items()} == expected


@given(st.text() | st.builds("{}{}".format, st.sampled_from(sorted(TABLE)), st.text(min_size=1)))
def test_an_unknown_name_is_unchanged(name: str) -> None:
    """A name that the table lacks passes through unchanged, also if it is nearly in it."""
    if name not in TABLE:
        assert translate(name) == translate_as_before(name) == name


def test_english_names_are_readable() -> None:
    """Every English name is in Latin letters, without blanks at its ends."""
    allowed = re.compile(r"[A-Za-zÀ-ÿ](?:[A-Za-zÀ-ÿ&(),.’ -]*[A-Za-zÀ-ÿ)])")
    assert not [english for english in TABLE.values() if not allowed.fullmatch(english)]
