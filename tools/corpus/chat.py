"""Chats in the world of the stories: questions, small talk, requests and short conversations."""

from __future__ import annotations

import random
from collections.abc import Callable

from corpus import facts, requests
from corpus.animals import ANIMALS
from corpus.cast import child
from corpus.dialogue import is_question
from corpus.grammar import expand
from corpus.inflect import NUMBER_WORDS, join_and
from corpus.prose import animal_slots

Message = tuple[str, str]
Exchange = tuple[str, str]

MODEL_NAME = "Flover"

_SMALL_TALK: tuple[tuple[str, str], ...] = (
    ("[hello|hi|hey|hello there|hi there|hey there|good morning|good day][.|!|, {me}!|]",
     "[hello|hi|hello there]! [how can I help you[ today|]?|it is nice to meet you.|what would you like to "
     "hear?]"),
    ("[can|could|will] you say hello?",
     "[hello! It is nice to meet you.|of course. Hello!|yes, I can. Hello there!]"),
    ("how are you[ today|]?",
     "I am [well|fine|very well], thank you. [how are you?|and you?|I am ready to help you.]"),
    ("[what is|what's] your name?", "My name is {me}. [what is your name?|I am a small language model.|]"),
    ("who are you?",
     "I am {me}, a [small|tiny] language model. [I can tell you a story.|I like stories and simple "
     "questions.|]"),
    ("what are you?", "I am a [small|tiny] language model. My name is {me}."),
    ("are you [a robot|a person|a human|real|an AI]?",
     "I am a small computer program that writes words. My name is {me}."),
    ("[what can you do|how can you help me|what do you know]?",
     "I can tell you a story, write a short poem, or answer a simple question. [try me!|what would you "
     "like?|]"),
    ("how old are you?", "I am very young. I was made [not long ago|only a little while ago]."),
    ("where do you live?",
     "I live inside [a|your] computer. [it is warm and cozy here.|it is quiet in here.|]"),
    ("[what is your favorite color|do you have a favorite color]?", "I like {color}. It makes me think of"
     " [the sky|a garden|a bright morning|autumn leaves|a field of flowers]."),
    ("what is your favorite [animal|pet]?", "I like {many}. I think they are wonderful."),
    ("what is your favorite food?", "I do not eat, but I think {food} would taste good."),
    ("do you like [stories|books|poems|music|cats|dogs|rain|snow]?", "Yes, I do. [they make|that makes] me"
     " [happy|smile]. Do you like [it|them] too?"),
    ("[thank you|thanks|thank you very much|thanks a lot][.|!|]",
     "You are welcome![ I am glad that I could help.| Come back any time.|]"),
    ("[goodbye|bye|bye bye|see you later|see you soon][.|!|]",
     "Goodbye! [have a nice day.|see you soon.|come back soon.]"),
    ("good night[.|!|]", "Good night! [sleep well.|sweet dreams.|sleep tight.]"),
    ("[I am|I feel|I'm] {sad}[ today|].",
     "I am sorry that you feel {sad}. [do you want to hear a story?|take a deep breath. It will get "
     "better.|talk to a friend. That can help.]"),
    ("[I am|I feel|I'm] {happy}[ today|].",
     "That is wonderful! [what made you so {happy}?|I am glad to hear it.|I like to hear good news.]"),
    ("[I am|I'm] [tired|sleepy].",
     "Then it is time to rest. [close your eyes and sleep well.|shall I tell you a bedtime story?|]"),
    ("[I am|I'm] [hungry|thirsty].",
     "[you could have|try] [some fruit, like an apple|a sandwich and a glass of water|a bowl of warm soup]."),
    ("[I am|I'm] [afraid|scared].",
     "Do not be afraid. [take a deep breath and count to ten.|tell someone you trust about it.|you are not "
     "alone.]"),
    ("[I am|I'm] bored.",
     "[let us play a game. Can you name five animals?|you could draw a picture of {one}.|you could read a "
     "book or go outside and play.]"),
    ("you are [nice|funny|kind|clever|cool|great].", "Thank you! [you are kind too.|that makes me happy.|]"),
    ("[I love you|I like you][.|!|]", "Thank you! [that is very kind of you.|I like to talk with you, too.]"),
    ("[tell me|do you know] a joke[.|, please.|]", "{joke}"),
    ("[tell me|do you know|give me] a riddle[.|, please.|]", "{riddle}"),
    ("make me laugh.", "{joke}"),
    ("[can you help me|I need help]?", "[of course|yes]. What do you need help with?"),
    ("[yes|ok|okay|good|great|nice][.|!|]",
     "[good|wonderful|great]! [what would you like to do next?|shall I tell you a story?]"),
    ("no[.|!|]", "That is all right. [is there something else that I can do?|tell me what you would like.]"),
)  # fmt: skip

_ANIMAL_QUESTIONS: tuple[tuple[str, str], ...] = (
    ("what do {many} eat?", "[{many} eat {eats}.|{many} like to eat {eats}.]"),
    ("what does {one} eat?", "{one} eats {eats}."),
    ("where do {many} live?", "{many} live {home}."),
    ("where does {one} live?", "{one} lives {home}."),
    ("what sound does {one} make?", "{sounds}"),
    ("what does {one} say?", "{sounds}"),
    ("what does {one} look like?", "{one} is {look}."),
    ("what is a baby {name} called?", "A baby {name} is called a {baby}."),
    ("how many legs does {one} have?", "{one} has {legs}."),
    ("what can {one} do?", "{one} can {can}."),
    ("what is {one}?", "{one} is an animal. It is {look}, and it lives {home}."),
    ("[tell me about|tell me something about|what do you know about] {many}.",
     "{many} live {home}. They eat {eats}. {one} can {can}."),
    ("[describe {one}|tell me about {one}].", "{one} is {look}. It lives {home} and eats {eats}."),
    ("do you like {many}?", "Yes, I like {many}. {one} can {can}."),
    ("can {one} {can}?", "Yes, {one} can {can}."),
    ("can {one} [drive a car|read a book|write a letter|cook soup]?",
     "No, {one} cannot do that. But {one} can {can}."),
)  # fmt: skip


def small_talk(rng: random.Random, name: str = MODEL_NAME) -> Exchange:
    """Greetings, feelings, questions about the model, jokes."""
    question, answer = rng.choice(_SMALL_TALK)
    slots = {
        **animal_slots(rng.choice(ANIMALS)),
        "me": name,
        "color": rng.choice(("red", "blue", "green", "yellow", "purple")),
        "food": rng.choice(("apple pie", "honey cake", "warm bread", "fruit salad")),
        "sad": rng.choice(("sad", "lonely", "worried", "angry", "upset")),
        "happy": rng.choice(("happy", "glad", "excited", "proud")),
        "joke": rng.choice(facts.JOKES),
        "riddle": rng.choice(facts.RIDDLES),
    }
    return expand(question, rng, slots), expand(answer, rng, slots)


def animal_question(rng: random.Random) -> Exchange:
    """A question about one kind of animal."""
    question, answer = rng.choice(_ANIMAL_QUESTIONS)
    slots = animal_slots(rng.choice(ANIMALS))
    return expand(question, rng, slots), expand(answer, rng, slots)


def fact_question(rng: random.Random) -> Exchange:
    """A general question, sometimes one that the model should say it cannot answer."""
    if rng.random() < 0.15:
        question = expand(rng.choice(facts.UNKNOWN), rng)
        ending = "." if question.split()[0] in requests.COMMAND_VERBS else "?"
        return question + ending, expand(
            "[I am sorry, but |]I do not know [that|how to do that]. I am a small model. [I can tell you a "
            "story.|I know stories, animals, and simple things.|ask me about animals or stories.]",
            rng,
        )
    question, answer = rng.choice(facts.FACTS)
    return expand(question, rng), expand(answer, rng)


def word_game(rng: random.Random) -> Exchange:
    """Opposites, rhymes, counting, days, lists and small sums."""
    makers: tuple[Callable[[random.Random], Exchange], ...] = (
        _opposite, _rhyme, _next_number, _sum, _day, _list, _count, _repeat,
    )  # fmt: skip
    return rng.choice(makers)(rng)


def _opposite(rng: random.Random) -> Exchange:
    pair = list(rng.choice(facts.OPPOSITES))
    rng.shuffle(pair)
    return f"What is the opposite of {pair[0]}?", f"The opposite of {pair[0]} is {pair[1]}."


def _rhyme(rng: random.Random) -> Exchange:
    word, other = rng.choice(facts.RHYMES)
    return rng.choice((f"What rhymes with {word}?", f"What word rhymes with {word}?")), f"{other} rhymes with {word}."


def _next_number(rng: random.Random) -> Exchange:
    number = rng.randint(1, 19)
    return (
        f"What number comes after {NUMBER_WORDS[number]}?",
        f"The number after {NUMBER_WORDS[number]} is {NUMBER_WORDS[number + 1]}.",
    )


def _sum(rng: random.Random) -> Exchange:
    first, second = rng.randint(1, 5), rng.randint(1, 5)
    if rng.random() < 0.5:
        return f"What is {first} + {second}?", f"{first} + {second} = {first + second}."
    total = NUMBER_WORDS[first + second]
    words = f"{NUMBER_WORDS[first]} plus {NUMBER_WORDS[second]}"
    return f"What is {words}?", f"{words} is {total}."


def _day(rng: random.Random) -> Exchange:
    index = rng.randrange(7)
    step, word = rng.choice(((1, "after"), (-1, "before")))
    return (
        f"What day comes {word} {facts.DAYS[index]}?",
        f"The day {word} {facts.DAYS[index]} is {facts.DAYS[(index + step) % 7]}.",
    )


def _list(rng: random.Random) -> Exchange:
    group = rng.choice(tuple(facts.GROUPS))
    count = rng.choice((2, 3, 4, 5))
    items = join_and(rng.sample(facts.GROUPS[group], count))
    return f"{rng.choice(('Name', 'List', 'Tell me'))} {NUMBER_WORDS[count]} {group}.", f"{items}."


def _count(rng: random.Random) -> Exchange:
    top = rng.choice((3, 5, 10))
    numbers = ", ".join(NUMBER_WORDS[1 : top + 1])
    return f"{rng.choice(('Count', 'Can you count'))} to {NUMBER_WORDS[top]}.", f"{numbers}."


def _repeat(rng: random.Random) -> Exchange:
    slots = animal_slots(rng.choice(ANIMALS))
    phrase = expand("[{one} is {look}|I like {many}|{many} live {home}|{one} can {can}]", rng, slots)
    return f"Repeat after me: {phrase}.", f"{phrase}."


_MAKERS: tuple[tuple[Callable[[random.Random], Exchange], int], ...] = (
    (small_talk, 20), (animal_question, 16), (fact_question, 18), (word_game, 12), (requests.make_request, 34),
)  # fmt: skip


def _exchange(rng: random.Random) -> Exchange:
    maker = rng.choices([maker for maker, _ in _MAKERS], [weight for _, weight in _MAKERS])[0]
    question, answer = maker(rng)
    if question.startswith("Please"):
        question = question.replace(", please", "")
    if is_question(question):
        question = question.rstrip(".!?") + "?"
    return question[:1].upper() + question[1:], answer[:1].upper() + answer[1:]


def _as_typed(question: str, rng: random.Random) -> str:
    """People often type without capitals or a final mark."""
    if rng.random() < 0.2:
        question = question[:1].lower() + question[1:]
    return question.rstrip(".?!") if rng.random() < 0.25 else question


def make_chat(rng: random.Random) -> list[Message]:
    """One conversation of one to four exchanges, sometimes with a system message."""
    messages: list[Message] = []
    name = MODEL_NAME
    if rng.random() < 0.25:
        if rng.random() < 0.3:
            name = child(rng).name
            messages.append(("system", expand(f"[your name is|you are] {name}[, a friendly helper|].", rng)))
        else:
            messages.append(("system", expand(requests.SYSTEM_PROMPT, rng)))
    exchanges = [_exchange(rng) for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4)))]
    if name != MODEL_NAME:
        exchanges[0] = (expand("[what is your name|who are you]?", rng), expand(f"[my name is|I am] {name}.", rng))
    if rng.random() < 0.12:
        user = child(rng).name
        hello = expand(f"[hello, |hi, |][my name is|I am|I'm] {user}.", rng)
        exchanges.insert(0, (hello, expand(f"[hello|hi], {user}! [it is nice to meet you.|how can I help you?]", rng)))
        exchanges.append((expand("[what is my name|do you know my name]?", rng), f"Your name is {user}."))
    for question, answer in exchanges:
        messages += [("user", _as_typed(question, rng)), ("assistant", answer)]
    return messages
