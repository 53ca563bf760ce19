"""English names for the portal's Chinese ones: carriers, provinces and countries.

One place or one carrier has one English name, however the portal spells it. To add a name, add it to `NAMES`; to add a
spelling, write it after the others of its name. Countries have their names in Unicode's CLDR 48, and all its spellings
are known. Where CLDR has several English names, the one here is the one that the older exporter used, if it used any.
"""

from typing import Final

# fmt: off
# Each is known with 省 too, and then gets the word Province.
PROVINCES: Final = {
    "Anhui": "安徽", "Fujian": "福建", "Gansu": "甘肃", "Guangdong": "广东", "Guizhou": "贵州", "Hainan": "海南",
    "Hebei": "河北", "Heilongjiang": "黑龙江", "Henan": "河南", "Hubei": "湖北", "Hunan": "湖南", "Jiangsu": "江苏",
    "Jiangxi": "江西", "Jilin": "吉林", "Liaoning": "辽宁", "Qinghai": "青海", "Shaanxi": "陕西", "Shandong": "山东",
    "Shanxi": "山西", "Sichuan": "四川", "Taiwan": "台湾", "Yunnan": "云南", "Zhejiang": "浙江",
}

NAMES: Final = {
    **PROVINCES,
    **{f"{english} Province": f"{chinese}省" for english, chinese in PROVINCES.items()},
    "Taiwan": "台湾 中国台湾",
    # Municipalities and autonomous regions.
    "Beijing": "北京 北京市", "Chongqing": "重庆 重庆市", "Shanghai": "上海 上海市", "Tianjin": "天津 天津市",
    "Guangxi": "广西 广西壮族自治区", "Inner Mongolia": "内蒙古 内蒙古自治区", "Ningxia": "宁夏 宁夏回族自治区",
    "Tibet": "西藏 西藏自治区", "Xinjiang": "新疆 新疆维吾尔自治区",
    # Special administrative regions.
    "Hong Kong Special Administrative Region": "香港 香港特区 香港特别行政区 中国香港 中国香港特别行政区",
    "Macao Special Administrative Region": "澳门 澳门特区 澳门特别行政区 中国澳门 中国澳门特别行政区",
    # Carriers. Some have the names that the older exporter gave them, capitals and all, so that queries go on matching.
    "Beijing Gehua": "北京歌华", "China Broadnet": "中国广电",
    "China Education and Research Computer Network": "教育网 中国教育网 中国教育和科研计算机网",
    "China Mobile": "中国移动", "China Netcom": "中国网通", "China Railcom": "中国铁通",
    "China Science and Technology Network": "科技网 中国科技网", "China Telecom": "中国电信",
    "China Unicom": "中国联通 f中国联通", "Dr. Peng": "鹏博士", "FibrLINK": "中电飞华", "Founder broadband": "方正宽带",
    "Great Wall Broadband": "长城宽带", "Greater Beijing, other": "北京大区其他",
    "Radio and television network": "广电网络", "Wasu": "华数", "Yeston Network": "盈通网络",
    # What is not told apart, among carriers and among regions.
    "other": "其他 其它",
    # Countries and territories.
    "Afghanistan": "阿富汗", "Åland Islands": "奥兰群岛", "Albania": "阿尔巴尼亚", "Algeria": "阿尔及利亚",
    "American Samoa": "美属萨摩亚", "Andorra": "安道尔", "Angola": "安哥拉", "Anguilla": "安圭拉",
    "Antarctica": "南极洲", "Antigua & Barbuda": "安提瓜和巴布达", "Argentina": "阿根廷", "Armenia": "亚美尼亚",
    "Aruba": "阿鲁巴", "Ascension Island": "阿森松岛", "Australia": "澳大利亚", "Austria": "奥地利",
    "Azerbaijan": "阿塞拜疆", "Bahamas": "巴哈马", "Bahrain": "巴林", "Bangladesh": "孟加拉国", "Barbados": "巴巴多斯",
    "Belarus": "白俄罗斯", "Belgium": "比利时", "Belize": "伯利兹", "Benin": "贝宁", "Bermuda": "百慕大",
    "Bhutan": "不丹", "Bolivia": "玻利维亚", "Bosnia & Herzegovina": "波斯尼亚和黑塞哥维那", "Botswana": "博茨瓦纳",
    "Bouvet Island": "布韦岛", "Brazil": "巴西", "British Indian Ocean Territory": "英属印度洋领地 查戈斯群岛",
    "British Virgin Islands": "英属维尔京群岛", "Brunei": "文莱", "Bulgaria": "保加利亚", "Burkina Faso": "布基纳法索",
    "Burundi": "布隆迪",
    "Cambodia": "柬埔寨", "Cameroon": "喀麦隆", "Canada": "加拿大", "Canary Islands": "加纳利群岛",
    "Cape Verde": "佛得角", "Caribbean Netherlands": "荷属加勒比区", "Cayman Islands": "开曼群岛",
    "Central African Republic": "中非共和国", "Ceuta & Melilla": "休达及梅利利亚", "Chad": "乍得", "Chile": "智利",
    "China": "中国", "Christmas Island": "圣诞岛", "Clipperton Island": "克利珀顿岛",
    "Cocos (Keeling) Islands": "科科斯（基林）群岛", "Colombia": "哥伦比亚", "Comoros": "科摩罗",
    "Congo - Brazzaville": "刚果（布） 刚果共和国", "Congo - Kinshasa": "刚果（金） 刚果民主共和国",
    "Cook Islands": "库克群岛", "Costa Rica": "哥斯达黎加", "Côte d’Ivoire": "科特迪瓦 象牙海岸", "Croatia": "克罗地亚",
    "Cuba": "古巴", "Curaçao": "库拉索", "Cyprus": "塞浦路斯", "Czechia": "捷克 捷克共和国",
    "Denmark": "丹麦", "Diego Garcia": "迪戈加西亚岛", "Djibouti": "吉布提", "Dominica": "多米尼克",
    "Dominican Republic": "多米尼加共和国", "Ecuador": "厄瓜多尔", "Egypt": "埃及", "El Salvador": "萨尔瓦多",
    "Equatorial Guinea": "赤道几内亚", "Eritrea": "厄立特里亚", "Estonia": "爱沙尼亚", "Eswatini": "斯威士兰",
    "Ethiopia": "埃塞俄比亚", "European Union": "欧盟", "Falkland Islands": "福克兰群岛 福克兰群岛（马尔维纳斯群岛）",
    "Faroe Islands": "法罗群岛", "Fiji": "斐济", "Finland": "芬兰", "France": "法国", "French Guiana": "法属圭亚那",
    "French Polynesia": "法属波利尼西亚", "French Southern Territories": "法属南部领地",
    "Gabon": "加蓬", "Gambia": "冈比亚", "Georgia": "格鲁吉亚", "Germany": "德国", "Ghana": "加纳",
    "Gibraltar": "直布罗陀", "Greece": "希腊", "Greenland": "格陵兰", "Grenada": "格林纳达", "Guadeloupe": "瓜德罗普",
    "Guam": "关岛", "Guatemala": "危地马拉", "Guernsey": "根西岛", "Guinea": "几内亚", "Guinea-Bissau": "几内亚比绍",
    "Guyana": "圭亚那", "Haiti": "海地", "Heard & McDonald Islands": "赫德岛和麦克唐纳群岛", "Honduras": "洪都拉斯",
    "Hungary": "匈牙利",
    "Iceland": "冰岛", "India": "印度", "Indonesia": "印度尼西亚", "Iran": "伊朗", "Iraq": "伊拉克",
    "Ireland": "爱尔兰", "Isle of Man": "马恩岛", "Israel": "以色列", "Italy": "意大利",
    "Jamaica": "牙买加", "Japan": "日本", "Jersey": "泽西岛", "Jordan": "约旦", "Kazakhstan": "哈萨克斯坦",
    "Kenya": "肯尼亚", "Kiribati": "基里巴斯", "Kosovo": "科索沃", "Kuwait": "科威特", "Kyrgyzstan": "吉尔吉斯斯坦",
    "Laos": "老挝", "Latvia": "拉脱维亚", "Lebanon": "黎巴嫩", "Lesotho": "莱索托", "Liberia": "利比里亚",
    "Libya": "利比亚", "Liechtenstein": "列支敦士登", "Lithuania": "立陶宛", "Luxembourg": "卢森堡",
    "Madagascar": "马达加斯加", "Malawi": "马拉维", "Malaysia": "马来西亚", "Maldives": "马尔代夫", "Mali": "马里",
    "Malta": "马耳他", "Marshall Islands": "马绍尔群岛", "Martinique": "马提尼克", "Mauritania": "毛里塔尼亚",
    "Mauritius": "毛里求斯", "Mayotte": "马约特", "Mexico": "墨西哥", "Micronesia": "密克罗尼西亚",
    "Moldova": "摩尔多瓦", "Monaco": "摩纳哥", "Mongolia": "蒙古", "Montenegro": "黑山", "Montserrat": "蒙特塞拉特",
    "Morocco": "摩洛哥", "Mozambique": "莫桑比克", "Myanmar": "缅甸",
    "Namibia": "纳米比亚", "Nauru": "瑙鲁", "Nepal": "尼泊尔", "Netherlands": "荷兰", "New Caledonia": "新喀里多尼亚",
    "New Jersey": "新泽西州", "New Zealand": "新西兰", "Nicaragua": "尼加拉瓜", "Niger": "尼日尔",
    "Nigeria": "尼日利亚", "Niue": "纽埃", "Norfolk Island": "诺福克岛", "North Korea": "朝鲜",
    "North Macedonia": "北马其顿", "Northern Mariana Islands": "北马里亚纳群岛", "Norway": "挪威", "Oman": "阿曼",
    "Pakistan": "巴基斯坦", "Palau": "帕劳", "Palestinian Territories": "巴勒斯坦领土 巴勒斯坦", "Panama": "巴拿马",
    "Papua New Guinea": "巴布亚新几内亚", "Paraguay": "巴拉圭", "Peru": "秘鲁", "Philippines": "菲律宾",
    "Pitcairn Islands": "皮特凯恩群岛", "Poland": "波兰", "Portugal": "葡萄牙", "Puerto Rico": "波多黎各",
    "Qatar": "卡塔尔", "Réunion": "留尼汪", "Romania": "罗马尼亚", "Russia": "俄罗斯", "Rwanda": "卢旺达",
    "Samoa": "萨摩亚", "San Marino": "圣马力诺", "São Tomé & Príncipe": "圣多美和普林西比", "Sark": "萨克岛",
    "Saudi Arabia": "沙特阿拉伯", "Senegal": "塞内加尔", "Serbia": "塞尔维亚", "Seychelles": "塞舌尔",
    "Sierra Leone": "塞拉利昂", "Singapore": "新加坡", "Sint Maarten": "荷属圣马丁", "Slovakia": "斯洛伐克",
    "Slovenia": "斯洛文尼亚", "Solomon Islands": "所罗门群岛", "Somalia": "索马里", "South Africa": "南非",
    "South Georgia & South Sandwich Islands": "南乔治亚和南桑威奇群岛", "South Korea": "韩国", "South Sudan": "南苏丹",
    "Spain": "西班牙", "Sri Lanka": "斯里兰卡", "St. Barthélemy": "圣巴泰勒米", "St. Helena": "圣赫勒拿",
    "St. Kitts & Nevis": "圣基茨和尼维斯", "St. Lucia": "圣卢西亚", "St. Martin": "法属圣马丁",
    "St. Pierre & Miquelon": "圣皮埃尔和密克隆群岛", "St. Vincent & Grenadines": "圣文森特和格林纳丁斯",
    "Sudan": "苏丹", "Suriname": "苏里南", "Svalbard & Jan Mayen": "斯瓦尔巴和扬马延", "Sweden": "瑞典",
    "Switzerland": "瑞士", "Syria": "叙利亚",
    "Tajikistan": "塔吉克斯坦", "Tanzania": "坦桑尼亚", "Thailand": "泰国", "Timor-Leste": "东帝汶", "Togo": "多哥",
    "Tokelau": "托克劳", "Tonga": "汤加", "Trinidad & Tobago": "特立尼达和多巴哥",
    "Tristan da Cunha": "特里斯坦-达库尼亚群岛", "Tunisia": "突尼斯", "Turkey": "土耳其", "Turkmenistan": "土库曼斯坦",
    "Turks & Caicos Islands": "特克斯和凯科斯群岛", "Tuvalu": "图瓦卢",
    "Uganda": "乌干达", "Ukraine": "乌克兰", "United Arab Emirates": "阿拉伯联合酋长国", "United Kingdom": "英国",
    "United States": "美国", "Uruguay": "乌拉圭", "U.S. Outlying Islands": "美国本土外小岛屿",
    "U.S. Virgin Islands": "美属维尔京群岛", "Uzbekistan": "乌兹别克斯坦", "Vanuatu": "瓦努阿图",
    "Vatican City": "梵蒂冈", "Venezuela": "委内瑞拉", "Vietnam": "越南", "Wallis & Futuna": "瓦利斯和富图纳",
    "Western Sahara": "西撒哈拉", "Yemen": "也门", "Zambia": "赞比亚", "Zimbabwe": "津巴布韦",
}
"""The Chinese spellings of each English name, with blanks between them."""

# The older exporter's names where they differ. Queries depend on them.
_AS_BEFORE: Final = {
    "海南省": "Hainan", "甘肃省": "Gansu province", "韩国": "Korea", "新西兰": "new Zealand",
    "欧盟": "The European Union", "华数": "Number of Chinese", "中电飞华": "CLP fly", "北京大区其他": "Big Bejing Area",
}
# fmt: on

TABLE: Final = {spelling: name for name, spellings in NAMES.items() for spelling in spellings.split()}
"""The English name for each Chinese spelling."""

_TABLE_AS_BEFORE: Final = TABLE | _AS_BEFORE


def translate(name: str) -> str:
    """Return the English name of a carrier, province or country; a name that the table lacks comes back unchanged."""
    return TABLE.get(name, name)


def translate_as_before(name: str) -> str:
    """Return the English name as the older exporter spelled it."""
    return _TABLE_AS_BEFORE.get(name, name)
