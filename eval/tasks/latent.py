"""Needles that share no word with their question: knowledge has to connect the two.

    Text      Oleander moors a houseboat a short walk from the Rijksmuseum.
    Question  Which person lives in Amsterdam?

The pairs were written for this project; a test holds that no content word is shared. Other names in
sentences of the same form stand in the text too, so that a name alone is no answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from longctx.eval.needle.needle import seeded
from longctx.eval.sample import Sample, Statement
from longctx.eval.tasks.base import About, Options, depth_of, elsewhere, fresh
from longctx.eval.texts.haystack import Haystack

if TYPE_CHECKING:
    from longctx.eval.spec import PromptSpec

OTHERS = 2  # persons of whom something else is told

# What is told of {name}, and what is asked. What is told in one pair answers no other question.
PAIRS: dict[str, tuple[tuple[str, str], ...]] = {
    "en": (
        ("{name} moors a houseboat a short walk from the Rijksmuseum.",
         "Which person lives in Amsterdam?"),
        ("{name} has to order oat milk, because lactose means a sleepless night.",
         "Who cannot drink what comes from a cow?"),
        ("At every concert {name} holds the cello between both knees.",
         "Who is a musician?"),
        ("{name} flies an airliner across the Atlantic twice a week.",
         "Who works as a pilot?"),
        ("{name} turned a hundred last Tuesday.",
         "Who is very old?"),
        ("{name} fasts from dawn to dusk all through Ramadan.",
         "Who is a Muslim?"),
        ("{name} sneezes as soon as a kitten enters the room.",
         "Who is allergic to pets?"),
        ("{name} spends the day drilling molars and filling cavities.",
         "Who is a dentist?"),
        ("{name} reads with the fingertips, dot by dot.",
         "Who is blind?"),
        ("{name} proved a lemma on prime ideals over lunch.",
         "Who is good at mathematics?"),
        ("{name} grew up where the Shinkansen stops below Mount Fuji.",
         "Whose childhood was spent in Japan?"),
        ("{name} carries a loaded camera to every wedding of the county.",
         "Who earns a living as a photographer?"),
        ("{name} has not touched steak, ham or chicken for ten years.",
         "Who is a vegetarian?"),
        ("{name} waters four hundred tulips and prunes the hedge on Fridays.",
         "Who is the gardener?"),
        ("{name} climbed the last ridge to the top of Everest with frozen eyebrows.",
         "Who has stood on the highest mountain?"),
        ("{name} lays bricks and mixes mortar from seven to four.",
         "Who builds houses?"),
        ("{name} wears a black robe and sentences thieves.",
         "Who is a judge?"),
        ("{name} keeps forty hives behind the barn and never minds a sting.",
         "Who produces honey?"),
        ("{name} was the only passenger who could chat with the waiter in Lisbon.",
         "Who speaks Portuguese?"),
        ("{name} kneads dough at three in the morning, while the street sleeps.",
         "Who is a baker?"),
        ("{name} swam from Dover to Calais in under eleven hours.",
         "Who has crossed the Channel without a boat?"),
        ("{name} still has the ticket for the last night of the Berlin Wall.",
         "Who witnessed an event of 1989?"),
    ),
    "zh": (
        ("{name}推开窗就能望见故宫的角楼。", "哪个人住在北京？"),
        ("{name}一喝牛奶肚子就疼。", "谁患有乳糖不耐症？"),
        ("{name}每天给病人拔牙、补洞。", "谁的职业是口腔大夫？"),
        ("{name}去年从南坳登上了珠穆朗玛。", "谁到过世界最高峰？"),
        ("{name}十年没有碰过鸡鸭鱼肉。", "谁吃素？"),
        ("{name}用指尖一点一点地摸着读书。", "谁失明了？"),
        ("{name}在屋后养了四十箱蜂。", "谁不怕被蜇？"),
        ("{name}驾驶客机每周两次横跨太平洋。", "谁当飞行员？"),
        ("{name}三点钟就起床揉面，整条街还在睡。", "谁开糕饼铺？"),
        ("{name}从小在富士山脚下长大。", "谁童年在日本度过？"),
    ),
}  # fmt: skip


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = {
    "en": _split("""Oleander Brannoch Thessaly Quillon Marisande Corvane Ilvara Dunmore Sabryna
    Fenwick Jorunn Castellan Wystan Peregrine Amadora Lysander Rowena Tancred Ysolde Evander"""),
    "zh": _split("""欧阳若曦 司徒岚 上官云起 慕容雪见 诸葛明朗 东方既白 南宫采薇 皇甫长风 令狐晚照
    尉迟星河"""),
}
_WORDS = {
    "en": (
        "The following text mentions several people by name.",
        "{question} Answer with the name.",
        "The name is",
    ),
    "zh": ("下面的文字里提到了几个人的姓名。", "{question}请只回答姓名。", "答案是"),
}


@dataclass(frozen=True)
class Latent:
    @property
    def about(self) -> About:
        return About(
            "latent",
            "who is meant, where needle and question share no word",
            32,
            languages=("en", "zh"),
        )

    def wording(self, language: str, options: Options) -> str:
        pairs = [word for pair in PAIRS[language] for word in pair]
        return "\n".join(("latent", *_WORDS[language], *pairs, *NAMES[language], str(OTHERS)))

    def answer_prefix(self, language: str, options: Options) -> str:
        return _WORDS[language][2]

    def sample(self, recipe: PromptSpec, haystack: Haystack) -> Sample:
        language = recipe.language
        rng = seeded("latent", language, recipe.seed, recipe.length, recipe.repeat)
        taken: set[str] = set()
        depth = depth_of(recipe)
        pairs = rng.sample(PAIRS[language], 1 + OTHERS)
        names = [fresh(lambda: rng.choice(NAMES[language]), haystack, taken) for _ in pairs]
        places = [depth, *rng.sample(elsewhere(rng, OTHERS, depth), OTHERS)]
        statements = tuple(
            Statement(told.format(name=name), place, evidence=n == 0, asked=n == 0)
            for n, ((told, _), name, place) in enumerate(zip(pairs, names, places, strict=True))
        )
        introduction, question, _ = _WORDS[language]
        return Sample(
            introduction=introduction,
            question=question.format(question=pairs[0][1]),
            answer_prefix=recipe.answer_prefix,
            expected=(names[0],),
            statements=statements,
            secrets=(names[0],),
        )
