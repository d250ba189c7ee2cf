"""Plots about fear, storms, races, helping and learning."""

from __future__ import annotations

from corpus.plot import Plot

FEAR = Plot(
    "being brave",
    (
        "{H} was [afraid|very afraid|scared] of {fear}. [{he} did not tell anyone.|everyone else seemed so "
        "brave.|even thinking about it made {him} shake.|]",
        '{time}, {F} came to visit. "[let us go to the {place}|come with me to the {place}|I want to '
        '{act}]!" said {F}. [{H} wanted to go, but {he} was worried.|{H} looked at {his} feet.|{H} said '
        "nothing.]",
        '"[what is wrong|why are you so quiet|do you not want to come]?" asked {F}. "I am afraid of '
        '{fear}," [said {H} in a small voice|{H} whispered|{H} said at last].',
        '{F} did not laugh. "[everyone is afraid of something|I am afraid of things too|it is all right to '
        'be afraid]," {fhe} said. "[when I am scared, I|when I feel that way, I|my {G} told me to] '
        '{remedy}."',
        "so they went together, [side by side|hand in hand|one slow step at a time]. [{H}'s heart went "
        "thump, thump, thump.|{H} wanted to run away.|at first {his} legs felt like jelly.] [but {F} stayed "
        "close.|but then {he} remembered what {F} had said.|]",
        "{H} took a deep breath and {remedied}. [nothing bad happened.|slowly the fear grew smaller.|it was "
        'not so bad after all.] ["look, I am doing it!" {he} said.|{he} opened {his} eyes and smiled.|"I '
        'did it!" {he} shouted.]',
        '[that day they {acted} and {acted2}.|after that they {acted} until it was time to go home.|] "[I '
        'am proud of you|you were so brave|now you know how]," said {F}.',
        "[{H} was still a little afraid sometimes, but now {he} knew what to do.|being brave does not mean "
        "that you have no fear. It means that you try anyway.|from then on, {fear} did not seem so scary.]",
    ),
)

STORM = Plot(
    "a storm",
    (
        "[one afternoon|late one afternoon|on a hot summer day], {H} and {F} were {acting} {where}. [they "
        "were having so much fun that they did not look up.|at first the sun was shining.|]",
        "[suddenly, the sky grew dark.|then big black clouds came over the hills.|all at once the wind "
        "began to blow.] [boom! went the thunder.|a flash of light cut the sky.|fat drops of rain began to "
        'fall.] "[we must go|quick, let us find a dry place|run]!" cried {F}.',
        "[they ran as fast as they could.|they held on to each other.|the rain fell harder and harder.] "
        "[the wind pulled at them.|the path turned to mud.|their feet went splash, splash, splash.]",
        "[near {sight}, they saw|at last, {H} saw|then a voice called to them from] a small [cave|hut|hole "
        'under a big tree]. a {stranger} [was sitting inside|lived there|was already hiding there]. "[come '
        'in, come in|there is room for everyone|you are all wet]," said the {animal}.',
        "[inside it was warm and dry.|they sat close together to keep warm.|the {animal} gave them {dish} "
        "to eat.] [they listened to the rain.|the {animal} told a story about {treasure}.|to pass the time, "
        "they sang songs and told jokes.]",
        '[{H} jumped at every boom.|{F} was shaking.|the thunder was very loud.] "[count with me|it is only '
        'noise|the storm will pass]," said the {animal}. "[storms are loud, but they never last|after the '
        'rain comes the sun|every storm gets tired in the end]."',
        "[at last the rain stopped.|before long, it was quiet again.|then, little by little, the sky grew "
        "light.] [a bright rainbow stood over the {place}.|everything was clean and shiny.|drops of water "
        "sparkled everywhere.]",
        "[the friends thanked the {animal} and ran home.|{H} and {F} jumped in every puddle on the way "
        'home.|"come back soon," said the {animal}, "even when it is sunny."] [after that day, {H} was not '
        "so afraid of storms.|they had lost a dry day, but they had found a new friend.]",
    ),
)

HELPING = Plot(
    "helping a stranger",
    (
        "{time}, {H} was on the way to the {place}. {he} wanted to {act}[ with {F}|]. [{weather}|{he} "
        "hummed a little song as {he} walked.]",
        "[by the side of the road|near {sight}|at the foot of a hill], {he} met a {stranger}. [{ahe} was "
        "trying to carry a heavy basket.|{ahe} was stuck in the mud.|{ahe} had a thorn in {ahis} "
        "foot.|{ahe} could not find the way home.]",
        '"[can you help me, please|oh dear, will you help me|please, could you help]?" asked the {animal}. '
        '[{H} thought about {F}, who was waiting.|{H} did not want to be late.|{H} stopped at once.] "[of '
        'course I will|yes, I will help you|I have time for you]," said {H}.',
        "[it was hard work.|{he} pulled and pushed with all {his} might.|it took a long, long time.] [but "
        "{he} did not give up.|soon {he} was hot and tired.|{he} tried once, and twice, and then it "
        'worked.] "[thank you, kind {kind}|you have a good heart|I will never forget this]," said the '
        "{animal}.",
        "when {H} got to the {place}, [it was very late|the sun was low|everyone had gone home]. [{he} felt "
        'a bit {sad}.|{he} sat down and sighed.|"I missed all the fun," {he} said.]',
        "[but the next day|but that evening|a few days later], {H} [needed help too|fell into a deep "
        'hole|lost {his} {toynoun} in the river]. [{he} called and called.|"help!" {he} shouted.] [who came '
        "running? It was the {animal}!|the {animal} heard {him} and came at once.]",
        '"[you helped me, and now I will help you|one good turn brings another|now it is my turn]," said '
        "the {animal}. [in no time, everything was all right.|together they made it right.|soon {H} was "
        "safe and {happy}.]",
        "[{H} and the {animal} became good friends.|kindness always finds its way back.|{H} thought that it "
        "is good to help and good to have friends.]",
    ),
)

RACE = Plot(
    "a race",
    (
        "[every year|every spring|once a year], there was a big race {where}. [everyone came to watch.|the "
        "winner got a {color} ribbon.|all the animals and children talked about it for weeks.]",
        '{Fk} was very fast. "[nobody can beat me|I will win for sure|I am the fastest of all]," {fhe} '
        "said. {H} was [not very fast|slow but steady|smaller than the others], but {he} [wanted to "
        "try|loved to run|had practiced every day].",
        "[at last the day came.|{time}, the race began.|on the day of the race, {H} stood at the line.] "
        '["ready, steady, go!" called {G}.|a bell rang, and off they went.|{G} waved a {color} flag, and '
        "everyone ran.]",
        "[{F} shot ahead like the wind.|{F} was soon far in front.|{F} ran so fast that the dust flew.] {H} "
        "[kept a steady pace|ran behind, step after step|did not look left or right].",
        "[half way along|near {sight}|just before the end], {F} [tripped and fell|stopped to rest and fell "
        "asleep|hurt {fhis} foot on a stone]. [{H} saw {fhim} there.|{H} could have run past.|now {H} was "
        "in front.]",
        '[but {H} stopped.|"are you all right?" asked {H}.|{H} turned back to help.] ["go on, you can win," '
        'said {F}.|{F} was surprised. "why do you help me?"] "[a friend is better than a ribbon|winning is '
        'no fun if you are hurt|let us finish together]," said {H}.',
        "[they crossed the line side by side.|leaning on each other, they walked to the end.|hand in hand, "
        "they crossed the line.] [everyone clapped and cheered.|the crowd cheered louder than ever.|{G} "
        "gave them each half of the ribbon.]",
        "[{F} never bragged again.|{F} learned that being kind is better than being fast.|it was the "
        "slowest race of all, and also the best.]",
    ),
)

LEARNING = Plot(
    "learning something new",
    (
        "{H} wanted to learn to {skill}. [all {his} friends could do it.|it looked so easy.|{F} could "
        "already do it very well.] [but every time {he} tried, it went wrong.|but when {he} tried, {he} "
        "failed.]",
        '"[I will never learn it|it is too hard for me|I give up]," said {H}, and [{he} kicked a stone|a '
        "tear ran down {his} cheek|{he} sat down with a sigh].",
        '{G} [heard {him}|saw how {sad} {he} was] and [came over|sat down next to {him}]. "[when I was '
        "little, I could not do it either|nobody can do everything on the first day|did you know that I "
        'tried a hundred times]," said {G}. "[try a little every day|practice makes it easier|one small '
        'step at a time]."',
        "so {H} practiced. {he} practiced in the morning, and {he} practiced {where}. [some days it went "
        "well, and some days it did not.|on Monday it was bad. On Tuesday it was a bit better.|{he} made "
        "many funny mistakes.] [{F} came to help.|{F} cheered for {him}.|]",
        "{time}, [something changed|it happened|{he} tried again]. {he} [took a deep breath|counted to "
        "three|closed {his} eyes], and then {he} {skilled}! [{he} could hardly believe it.|it was not "
        "perfect, but it was real.]",
        '"[look, look|I can do it|did you see that]!" {he} [shouted|cried|called]. [{G} clapped {ghis} '
        'hands.|{F} jumped up and down.|everyone came to see.] "[I knew you could|you worked so hard|well '
        'done]," said {G}.',
        "[soon {he} was teaching a {stranger} to {skill} too.|that night {he} dreamed about all the things "
        '{he} could still learn.|now, when something is hard, {H} says, "I cannot do it yet."]',
    ),
)

SICK_FRIEND = Plot(
    "visiting a sick friend",
    (
        "{time}, {F} did not come out to play. [{H} waited and waited.|{H} looked for {fhim} {where}, but "
        '{fhe} was not there.] "[{F} is sick in bed|{F} has a bad cold|{F} must stay at home today]," said '
        "{G}.",
        '[{H} was {sad} to hear it.|"poor {F}!" said {H}.|{H} thought about {fhim} all morning.] "[how can '
        'I make {fhim} feel better|what can I bring {fhim}|I want to cheer {fhim} up]," {he} said.',
        "[{he} picked some {flowers}.|first {he} packed {number} {snacks}.|{he} drew a {color} picture.] "
        "[then {he} helped {G} to make {dish}.|{G} filled a pot with {dish}.|{he} also took {his} favorite "
        "book.]",
        "[{H} knocked softly on the door.|{he} walked carefully so that nothing would spill.] {F} was "
        '[lying in bed|under three blankets|very pale]. ["I feel so weak," said {F}.|"hello," said {F} in a '
        "small voice.|{F} sneezed three times.]",
        '"[look what I have for you|I came to keep you company|I brought you something]," said {H}. [{F} '
        "ate a little and smiled.|{H} read a story about a {animal}.|they played a quiet game together.] "
        "[{H} made funny faces, and {F} laughed.|soon {F}'s cheeks were pink again.|{F} felt a little "
        "better already.]",
        "[every day {H} came back.|{H} visited {fhim} every day that week.|the next day {he} came again, "
        'and the day after that.] and at last {F} [was well|could go outside|jumped out of bed]. "[you are '
        'the best medicine|thank you for coming|now let us go and {act}]," said {F}.',
        '[the two friends ran to the {place} together.|they {acted} until the sun went down.|"friends look '
        'after each other," said {H}.]',
    ),
)

PLOTS = (FEAR, STORM, HELPING, RACE, LEARNING, SICK_FRIEND)
