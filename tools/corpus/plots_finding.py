"""Plots about losing, finding, sharing and saying sorry."""

from __future__ import annotations

from corpus.plot import Plot

LOST_TOY = Plot(
    "losing something",
    (
        "{H} had a {toy}[ and loved it very much|. It was {his} favorite thing in the [whole |]world|"
        " that {G} had given {him}].",
        "[{he} took it everywhere.|every night {he} kept it close to {his} bed.|{he} never went anywhere without it.|]",
        "{time}, {T} went to the {place} to {act}. [{weather}|the {toynoun} was [in {his} bag|right beside {him}].|]",
        "[but when it was time to go home|but later, when {he} looked around|but after a while], the "
        '{toynoun} was [gone|nowhere to be seen|not there anymore]. ["oh no!" cried {T}. "Where is my '
        '{toynoun}?"|{he} felt very {sad}.|"I have lost my {toynoun}!" {he} said, and a tear rolled down '
        "{his} face.]",
        "[{he} looked behind {sight}.|{he} looked high and low.|{he} searched under every leaf and stone.] "
        "[it was not there.|{he} could not find it anywhere.|there was nothing there but dust.]",
        'then {Fk} came by. ["Why are you so {sad}?" {fhe} asked.|"what is the matter?" asked {F}.|"you '
        'look {sad}," said {F}. "can I help?"] ["my {toynoun} is lost," said {H}.|{H} told {fhim} '
        "[everything|what had happened|the whole story].]",
        '"[let us look together|do not worry, we will find it|two can look better than one]," said {F}. [so '
        "they walked back along the path|so the two friends searched again|they went back to where {H} had "
        "been], step by step.",
        "[at last|suddenly|a moment later], {F} [saw something {color}|heard a soft sound|pointed to "
        "{sight}]. [there it was!|it was the {toynoun}!|and there lay the {toynoun}, safe and sound.] [{H} "
        "jumped for joy.|{H} held it tight.|{H} hugged {F}.]",
        '"thank you, {F}!" said {H}. "[you are a true friend|I could not have found it without you|you have '
        'such good eyes]." [after that, {he} always took good care of {his} {toynoun}.|they walked home '
        "together, happy and tired.|from then on, {he} let {F} play with it too.]",
    ),
)

FOUND_THING = Plot(
    "finding something that belongs to someone else",
    (
        "{time}, {H} was {acting} {where}. [{weather}|it was a good day to be outside.]",
        "[there, near {sight}|on the ground, half hidden in the grass|just beside the path], {he} "
        '[saw|found|noticed] a {toy}. ["how lovely!" {he} said.|{he} picked it up and looked at it '
        "closely.|it was the nicest thing {he} had ever seen.]",
        "{T} wanted to keep it. [but then {he} began to think.|but something did not feel right.|but {he} "
        'knew it was not {his} to keep.] "[somebody must be looking for this|someone must miss it very '
        'much|it belongs to someone else]," {he} thought.',
        'so {he} asked [{G}|everyone {he} met|a {stranger}], "[is this yours|did you lose a {toynoun}|do '
        'you know who lost this]?" ["no," came the answer. "try the {place2}."|But the answer was always '
        'no.|"it is not mine," was the answer, "but keep asking."]',
        "[near the {place2}|a little later|at the end of the path], {he} met {F}, a {little} {fkind}. {F} "
        'was [crying|looking under a bush|walking slowly with {fhis} head down]. "[I lost my {toynoun}|I '
        'have looked all day for my {toynoun}|my {toynoun} is gone]," {fhe} said.',
        '[{H} smiled and held it out.|"is this the one?" asked {H}.|"look what I found!" said {H}.] '
        '{F}\'s eyes [shone|grew wide|lit up]. "[yes, yes|that is mine|you found it]! thank you so much!"',
        "{F} [gave {him} a {snack}|shared {fhis} {snacks} with {him}|gave {him} a big hug]. [they talked "
        "until the sun went down.|then they played together with the {toynoun}.|soon they were laughing "
        "like old friends.]",
        "{H} [had lost a {toynoun}, but {he} had found a friend|went home with empty hands and a full "
        "heart|learned that being honest feels better than keeping things].",
    ),
)

SHARING = Plot(
    "sharing",
    (
        "{H} had [a basket full of|a big bag of|{number} sweet] {snacks}. [they smelled wonderful.|{G} had "
        "given them to {him}.|{he} could hardly wait to eat them.]",
        "{time}, {he} sat down {where} to eat. [{weather}|it was quiet there.|{sound}.]",
        "[along came {Fk}|then {F}, a {little} {fkind}, walked up|soon {Fk} came by]. {F} had [nothing to "
        'eat|not eaten all day|forgotten {fhis} lunch]. ["may I have one {snack}, please?" {fhe} '
        "asked.|{fhe} looked at the {snacks} and said nothing.|{fhis} tummy made a loud sound.]",
        '[at first, {T} did not want to share.|"they are all mine," said {T}.|{H} held the {snacks} close. '
        '"no," {he} said.] [{F} [looked down|sighed] and [turned away|began to walk away].|{F} sat down '
        "alone under a tree.]",
        "[{H} ate one {snack}, but it did not taste so good.|{H} felt a little lump in {his} throat.|{H} "
        'looked at {F} and began to feel {sad}.] "[it is no fun to eat alone|I have more than I need|I '
        'would be {sad} too]," {he} thought.',
        '"[wait, {F}|come back, {F}|please sit with me]!" called {H}. "[we can share|half of these are for '
        'you|there is enough for both of us]." [{F} smiled a big smile.|{F} ran back at once.|"really? '
        'thank you!" said {F}.]',
        "[they ate together and told funny stories.|they counted the {snacks}, one for you and one for "
        "me.|together they ate every crumb.] [this time the {snacks} tasted better than ever.|it was the "
        "best meal of the day.|]",
        "[the next day, {F} brought {dish} to share with {H}.|from that day on, they always shared their "
        "food.|{H} learned that sharing makes everything sweeter.]",
    ),
)

MISTAKE = Plot(
    "saying sorry",
    (
        "{H} and {F} [were good friends|lived near each other|played together every day]. {F} was a {trait} "
        "{fkind} [who had|and the proud owner of] a {toy}.",
        '{time}, they were {acting} {where}. ["please be careful with my {toynoun}," said {F}.|"you may '
        'hold my {toynoun}," said {F}.|{F} put {fhis} {toynoun} down.]',
        "but {T} [was running too fast|was not looking|wanted to show a trick]. [crash!|oops!|crack!] [the "
        "{toynoun} fell and broke.|{he} fell right on top of it.|it slipped out of {his} hands and broke in "
        "two.]",
        "[{H} was afraid.|{H}'s face turned red.|{H} did not know what to do.] [{he} hid the pieces under a "
        'bush.|"it was not me," {he} said quickly.|{he} ran home without a word.]',
        "[that night, {he} could not sleep.|all evening, {he} felt {sad}.|at dinner, {he} did not want to "
        'eat.] ["what is wrong?" asked {G}. {H} told {ghim} the truth.|{G} sat down beside {him}, and {he} '
        'told {ghim} everything.] "[a mistake is not the end of the world|it is brave to tell the '
        'truth|saying sorry can mend a lot of things]," said {G}.',
        '[in the morning|the next day|early the next morning], {H} went to see {F}. "[I broke your '
        '{toynoun}|it was my fault|I did a bad thing]. I am [so|very|truly] sorry," {he} said.',
        "[{F} was quiet for a moment.|{F} looked at {him} for a long time.|{F} was sad, but {fhe} was not "
        'angry.] "[thank you for telling me|I forgive you|we all make mistakes]," {fhe} said. [together '
        'they fixed it with glue and string.|then they mended it together.|"let us fix it together."]',
        "[it was not as good as new, but they loved it even more.|now the {toynoun} had a funny crack, and "
        "it made them laugh.|{H} felt light and {happy} again.]",
    ),
)

LOST_WAY = Plot(
    "getting lost",
    (
        "{time}, {H} went for a walk {where2} with {G}. [{weather}|they were looking for {flowers}.]",
        "{T} saw [a bright butterfly|a {color} bird|a tiny rabbit]. [{he} ran after it, over a log and "
        "under a branch.|{he} followed it a little way, and then a little more.|without thinking, {he} ran "
        "after it.]",
        "[when {he} stopped, {G} was gone.|soon {he} could not see {G} at all.|then {he} turned around, and "
        'nothing looked the same.] "[where am I|{G}, where are you|how do I get home]?" {he} '
        "[called|cried|whispered]. [only the wind answered.|no one answered.|]",
        "{H} sat down [on a rock|beside {sight}|under a tree]. [{he} remembered what {G} always said.|then "
        '{he} remembered something important.|{he} took a deep breath.] "[if you are lost, stay where you '
        'are|when you are lost, sit still and call out|if you lose your way, stay calm]."',
        'just then, [a {stranger}|an old {animal}] came along. ["are you lost?" {ahe} asked.|"why are you '
        'sitting here all alone?" {ahe} asked.|"who is calling so loudly?" {ahe} asked.] "[I cannot find '
        '{G}|I lost {G}|I want to go home]," said {H}.',
        '["I will wait here with you," said the {animal}.|the {animal} sat down next to {him}.|"then let us '
        'call together," said the {animal}.] [they sang a song, so that {G} could hear them.|they called '
        "{G}'s name again and again.|the {animal} made a very loud sound.]",
        '[soon they heard steps.|then a voice called, "{H}!"|before long, someone came running.] It was '
        '{G}! [{G} hugged {him} tight.|{H} ran into {ghis} arms.|"I was so worried," said {G}.] {H} thanked '
        "the {animal} [and waved goodbye|with all {his} heart|with a {snack}].",
        '[on the way home, {he} held {G}\'s hand the whole time.|"next time I will stay close to you," '
        "said {H}.|after that day, {he} never ran off alone again.]",
    ),
)

PLOTS = (LOST_TOY, FOUND_THING, SHARING, MISTAKE, LOST_WAY)
