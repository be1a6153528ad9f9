"""The needle in eleven more languages: introduction, wordings, question, prefix, names of places.

Written for this project; each says what the English one says. Knows nothing of haystacks.
"""

from __future__ import annotations

from longctx.eval.tasks.style import TaskStyle

# introduction, statements, question, answer prefix, keys
_WORDS: dict[str, tuple[str, tuple[str, ...], str, str, str]] = {
    "zh": (
        "下面的文字中藏着一个特殊的幻数。请务必记住它，之后我会就这个数字向你提问。",
        ("{key}的特殊幻数是{value}。", "请记住，{key}的特殊幻数是{value}。",
         "顺便说一下，{key}的特殊幻数是{value}。"),
        "根据上面的文字，{key}的特殊幻数是多少？",
        "根据上面的文字，{key}的特殊幻数是",
        "大理 敦煌 泉州 拉萨 哈尔滨 桂林 喀什 景德镇 丽江 厦门 洛阳 平遥 承德 绍兴 延安 呼和浩特",
    ),
    "es": (
        "En el texto siguiente se esconde un número mágico especial. Memorízalo bien, porque "
        "después te preguntaré por él.",
        ("El número mágico especial de {key} es {value}.",
         "Recuerda que el número mágico especial de {key} es {value}.",
         "Por cierto, el número mágico especial de {key} es {value}."),
        "Según el texto, ¿cuál es el número mágico especial de {key}?",
        "Según el texto, el número mágico especial de {key} es",
        "Toledo Salamanca Oaxaca Valparaíso Cartagena Cuzco Mérida Zaragoza Quito Córdoba Bilbao "
        "Montevideo Guanajuato Granada Arequipa Segovia",
    ),
    "fr": (
        "Un nombre magique spécial est caché dans le texte suivant. Retiens-le bien, je "
        "t'interrogerai ensuite à son sujet.",
        ("Le nombre magique spécial pour {key} est {value}.",
         "Retiens que le nombre magique spécial pour {key} est {value}.",
         "Au fait, le nombre magique spécial pour {key} est {value}."),
        "D'après le texte, quel est le nombre magique spécial pour {key} ?",
        "D'après le texte, le nombre magique spécial pour {key} est",
        "Annecy Bordeaux Colmar Dijon Grenoble Honfleur Limoges Marseille Nantes Orléans Poitiers "
        "Québec Rennes Strasbourg Toulouse Vannes",
    ),
    "de": (
        "Im folgenden Text ist eine besondere magische Zahl versteckt. Merke sie dir gut, denn ich "
        "werde dich später danach fragen.",
        ("Die besondere magische Zahl für {key} ist {value}.",
         "Merke dir: Die besondere magische Zahl für {key} ist {value}.",
         "Übrigens ist {value} die besondere magische Zahl für {key}."),
        "Wie lautet dem Text zufolge die besondere magische Zahl für {key}?",
        "Dem Text zufolge lautet die besondere magische Zahl für {key}",
        "Bamberg Celle Dresden Erfurt Freiburg Görlitz Husum Innsbruck Konstanz Lübeck Marburg "
        "Passau Quedlinburg Regensburg Stralsund Wismar",
    ),
    "ja": (
        "次の文章の中に特別な魔法の数が隠されています。必ず覚えておいてください。あとでその数について質問します。",
        ("{key}の特別な魔法の数は{value}です。",
         "{key}の特別な魔法の数は{value}だと覚えておいてください。",
         "ところで、{key}の特別な魔法の数は{value}です。"),
        "上の文章によると、{key}の特別な魔法の数はいくつですか？",
        "上の文章によると、{key}の特別な魔法の数は",
        "金沢 倉敷 盛岡 函館 長崎 松江 鎌倉 仙台 別府 尾道 弘前 津和野 奈良 小樽 熊本 飛騨",
    ),
    "ko": (
        "다음 글에 특별한 마법의 숫자가 숨겨져 있습니다. 꼭 기억해 두세요. 나중에 그 숫자에 대해 "
        "질문하겠습니다.",
        ("{key}의 특별한 마법의 숫자는 {value}입니다.",
         "{key}의 특별한 마법의 숫자가 {value}임을 기억하세요.",
         "그런데 {key}의 특별한 마법의 숫자는 {value}입니다."),
        "글에 따르면 {key}의 특별한 마법의 숫자는 무엇입니까?",
        "글에 따르면 {key}의 특별한 마법의 숫자는",
        "경주 전주 안동 강릉 통영 여수 춘천 제주 부산 목포 속초 수원 포항 순천 태백 남원",
    ),
    "ar": (
        "في النص التالي رقم سحري خاص مخفي. احفظه جيدا، فسوف أسألك عنه لاحقا.",
        ("الرقم السحري الخاص بمدينة {key} هو {value}.",
         "تذكر أن الرقم السحري الخاص بمدينة {key} هو {value}.",
         "بالمناسبة، الرقم السحري الخاص بمدينة {key} هو {value}."),
        "ما هو الرقم السحري الخاص بمدينة {key} المذكور في النص؟",
        "الرقم السحري الخاص بمدينة {key} المذكور في النص هو",
        "فاس حلب البصرة القيروان أسوان صنعاء مكناس طرابلس الموصل نابلس تلمسان اللاذقية دمياط مسقط "
        "عدن سوسة",
    ),
    "ru": (
        "В следующем тексте спрятано особое магическое число. Обязательно запомни его, потом я о "
        "нём спрошу.",
        ("Особое магическое число для города {key} — {value}.",
         "Запомни: особое магическое число для города {key} — {value}.",
         "Кстати, особое магическое число для города {key} — {value}."),
        "Какое особое магическое число для города {key} названо в тексте?",
        "В тексте названо особое магическое число для города {key}:",
        # Names without cases: `для города` asks for the genitive.
        "Сочи Баку Батуми Тбилиси Осло Хельсинки Токио Монтевидео Чикаго Торонто Мехико Тарту "
        "Глазго Нагасаки Бордо Кутаиси",
    ),
    "th": (
        "มีหมายเลขวิเศษซ่อนอยู่ในข้อความต่อไปนี้ โปรดจำให้ได้ แล้วฉันจะถามถึงหมายเลขนั้นภายหลัง",
        ("หมายเลขวิเศษของจังหวัด{key}คือ {value}",
         "โปรดจำไว้ว่าหมายเลขวิเศษของจังหวัด{key}คือ {value}",
         "อนึ่ง หมายเลขวิเศษของจังหวัด{key}คือ {value}"),
        "ตามข้อความข้างต้น หมายเลขวิเศษของจังหวัด{key}คือหมายเลขอะไร",
        "ตามข้อความข้างต้น หมายเลขวิเศษของจังหวัด{key}คือ",
        "เชียงใหม่ สุโขทัย สุรินทร์ ลำปาง ระยอง ภูเก็ต ตรัง น่าน ลพบุรี พัทลุง สงขลา นครพนม ชุมพร พะเยา กระบี่ ยโสธร",
    ),
    "vi": (
        "Trong văn bản sau có giấu một con số kỳ diệu đặc biệt. Hãy ghi nhớ nó, sau đó tôi sẽ hỏi "
        "bạn về con số này.",
        ("Con số kỳ diệu đặc biệt của {key} là {value}.",
         "Hãy nhớ rằng con số kỳ diệu đặc biệt của {key} là {value}.",
         "Nhân tiện, con số kỳ diệu đặc biệt của {key} là {value}."),
        "Theo văn bản, con số kỳ diệu đặc biệt của {key} là gì?",
        "Theo văn bản, con số kỳ diệu đặc biệt của {key} là",
        "Huế Hội_An Đà_Lạt Sa_Pa Vinh Quy_Nhơn Cần_Thơ Nha_Trang Hạ_Long Pleiku Buôn_Ma_Thuột "
        "Ninh_Bình Mỹ_Tho Vũng_Tàu Hải_Phòng Lạng_Sơn",
    ),
    "pt": (
        "No texto seguinte está escondido um número mágico especial. Memorize-o bem, pois depois "
        "farei uma pergunta sobre ele.",
        ("O número mágico especial de {key} é {value}.",
         "Lembre-se de que o número mágico especial de {key} é {value}.",
         "A propósito, o número mágico especial de {key} é {value}."),
        "Segundo o texto, qual é o número mágico especial de {key}?",
        "Segundo o texto, o número mágico especial de {key} é",
        "Coimbra Évora Braga Olinda Salvador Recife Luanda Maputo Sintra Guimarães Ouro_Preto "
        "Belém Manaus Lagos Tomar Beja",
    ),
}  # fmt: skip


LANGUAGES = {
    language: TaskStyle(
        introduction=introduction,
        statements=statements,
        question=question,
        answer_prefix=prefix,
        keys=tuple(key.replace("_", " ") for key in keys.split()),
    )
    for language, (introduction, statements, question, prefix, keys) in _WORDS.items()
}
