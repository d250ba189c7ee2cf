"""Plots about friends, wishes, treasure and other small wonders."""

from __future__ import annotations

from corpus.plot import Plot

NEW_FRIEND = Plot(
    "making a new friend",
    (
        "{H} had just moved to a new [home|house] near the {place}. [{he} did not know anyone "
        "there.|everything was new and strange.|{he} missed {his} old friends.]",
        "{time}, {he} watched the others {where}. [they were {acting} and laughing.|{weather}|{sound}.] "
        "[{T} wanted to play too, but {he} was too shy to ask.|{he} stood far away and looked at {his} "
        "feet.|nobody seemed to see {him}.]",
        "[then a ball rolled up to {him}.|then {he} heard a sniff behind {sight}.|just then, someone tapped "
        '{him} on the back.] it was {F}, a {trait} {fkind}. "[hello, what is your name|are you new here|do '
        'you want to play]?" asked {F}.',
        '"I am {H}," {he} said[ in a quiet voice|]. "[I do not know how to play that game|I only came here '
        'yesterday|I have nobody to play with]." [{F} smiled.|{F}\'s eyes were kind.] "[then come and play '
        'with me|I was new here once too|I will show you everything]," said {F}.',
        "[{F} took {him} to {sight}.|first they {acted}, and then they {acted2}.|{F} showed {him} the best "
        "place to {act}.] [{H} forgot to be shy.|soon they were laughing out loud.|it turned out that they "
        "both loved {snacks}.]",
        "[{H} taught {F} a game from {his} old home.|{H} shared {his} {snacks}, and {F} shared {fhis} "
        "{toynoun}.|they found {treasure} and decided to share it.]",
        'when it was time to go, {F} asked, "[will you come again tomorrow|are we friends now|shall we meet '
        'here every day]?" "[yes|I would love to|of course]," said {H}.',
        "that night {H} told {G} [all about it|about {his} new friend]. [the new house began to feel like "
        'home.|"I like it here now," {he} said, and {he} fell asleep with a smile.]',
    ),
)

WISH = Plot(
    "a wish",
    (
        "{time}, {H} found {treasure} {where}. [{he} rubbed it with {his} sleeve.|it was warm, and it began "
        "to glow.] [pop!|puff!] [a tiny {animal} with wings sat in front of {him}.|out came a tiny {color} "
        "light, and it spoke.]",
        '"[you have one wish|I can give you one wish|make a wish, but think well]," said the tiny voice. '
        "[{H}'s eyes grew wide.|{H} could hardly believe it.|]",
        '[what should {he} wish for?|{he} thought and thought.|"one wish!" said {H}.] [a mountain of '
        "{snacks}?|a {toy}?|a castle with {number} towers?] [{he} could not choose.|each idea seemed better "
        "than the last.]",
        "then {he} saw {F}. [{F} was sitting alone, and {fhe} looked {sad}.|{F} was limping down the "
        'road.|{F} was crying by the side of the road.] "[what is wrong|why are you crying]?" asked {H}. '
        '"[my {toynoun} broke, and it was a gift from {G}|I am ill, and I cannot run|our roof has a hole, '
        'and it rains on my bed]," said {F}.',
        "[{H} was quiet for a while.|{H} thought about all the things {he} wanted.|then {H} knew what to "
        'do.] "[I wish that {F} could be happy again|I know my wish now. Please help {F}|my wish is for '
        '{F}]," {he} said.',
        "[there was a flash of light.|a soft {color} light filled the air.|the wind sang a strange song.] "
        "[{F} looked up and laughed.|all at once, everything was right again.|{F} jumped to {fhis} feet.] "
        '"[how did you do that|I feel so happy|thank you, {H}]," {fhe} said.',
        '["you chose well," said the voice, and then it was gone.|the light grew small and flew away.] [{H} '
        'had no castle and no mountain of {snacks}, but {he} felt rich.|and {H} was as {happy} as {F}.|"it '
        'was only a small wish," said {H}, but {he} knew that it was a big one.]',
    ),
)

TREASURE = Plot(
    "a treasure hunt",
    (
        "{time}, {H} found an old map [in a bottle|inside a book|under {his} bed|in {G}'s desk]. [there was "
        'a {color} cross on it.|it smelled of dust and salt.] "[it is a treasure map|this must lead to a '
        'treasure|I must show this to {F}]," {he} said.',
        "{Fk} [wanted to come too|loved adventures|could read maps very well]. [they packed {snacks} and a "
        'rope.|they took a lamp, a rope, and some {snacks}.] ["let us go!" said {F}.|and off they went.]',
        "first they walked {number} steps from {sight}. [then they went over a bridge.|then they crossed a "
        "stream on flat stones.|then they crawled through a dark hole.] [the path was steep.|it was a long "
        "way.|{sound}.]",
        '[on the way they met a {stranger}.|a {stranger} sat in the middle of the path.] "[nobody may pass '
        'without telling a joke|only a friend may pass|what is the password]," said the {animal}. [{H} '
        "thought hard.|{F} gave {ahim} a {snack}.|{H} told a very silly joke.] [the {animal} laughed and "
        'let them go by.|"you may pass," said the {animal}.]',
        "at last they came to the {color} cross. [they dug and dug.|{F} dug as fast as {fhe} could.|they "
        "moved a big stone.] [clunk! There was a box.|under the stone they found a small box.|then they hit "
        "something hard. It was a box.]",
        "[inside there was no gold.|but it was not full of gold.|{H} opened it with shaking hands.] inside "
        'was {treasure} and a letter. [{H} read it aloud.|the letter said this.] "[the best treasure is the '
        "friend who walks with you|if you found this, you were brave and clever|now hide something here for "
        'the next one who comes]."',
        "[{H} looked at {F}, and {F} looked at {H}.|they sat there for a while and ate their {snacks}.] "
        '"[it is true|I like this treasure|what a day]," said {F}. [they laughed all the way home.|they '
        "kept the map for another day.]",
    ),
)

QUARREL = Plot(
    "making up after a fight",
    (
        "{H} and {F} were best friends. [they did everything together.|they met {where} every day.] but "
        "{time}, they had a fight. [both of them wanted the {toy}.|{H} wanted to {act}, but {F} wanted to "
        "{act2}.|each of them wanted to go first.]",
        '"[it is my turn|you never listen to me|that is not fair]!" said {H}. "[no, it is my turn|you '
        'always choose|you are mean]!" said {F}. [{F} stamped {fhis} foot.|they turned their backs to each '
        'other.|{H} crossed {his} arms.] [then they both went home.|"I will play alone," said {H}.]',
        "[{H} sat at home and looked out of the window.|{H} tried to play alone, but it was not the "
        "same.|it was very quiet without {F}.] [{F} was {sad} too.|over at {fhis} house, {F} could not "
        'enjoy {fhis} {snacks}.] "[I miss {F}|it was a silly fight|I do not even know why I was angry]," '
        "thought {H}.",
        '[{H} told {G} about it.|{G} saw {his} long face.] "[somebody has to say sorry first|a friend is '
        'worth more than a game|what would you like {F} to do]," said {G}. [{H} nodded slowly.|{H} thought '
        "about it for a long time.]",
        "[{he} made a card with a {color} heart on it.|{he} took two {snacks} and went to {F}'s house.|{he} "
        "ran all the way to {F}'s house.] [half way there, {he} met {F}, who was coming to see {him}!|{F} "
        "opened the door before {he} could knock.]",
        '"I am sorry," they both said at the same time. [then they laughed.|{F} began to giggle.|they '
        'hugged each other tight.] "[you can go first|let us take turns|we can do both things]," said {H}. '
        '"[no, you first|that is a good plan|I would like that]," said {F}.',
        "[so first they {acted}, and then they {acted2}.|so they took turns, and it was more fun than "
        "before.] [after that they still had a fight now and then, but they always made up.|friends can "
        "fight, but good friends make up.]",
    ),
)

RESCUE = Plot(
    "a small friend who helps",
    (
        '{H} was the smallest {kind} of all. "[you are too small to help|you are too little for that|wait '
        'until you are bigger]," the others always said. [that made {H} {sad}.|{H} did not like to hear '
        "that.]",
        "{time}, [there was a cry for help {where}|everyone heard a shout {where}|something bad happened "
        "{where}]. [{F} the {fkind} was stuck.|{F} had fallen into a hole.|{F}'s {toynoun} had rolled into "
        "a deep crack.] [everyone came running.|]",
        "a big {animal} tried to help. [{ahe} pulled and pulled.|{ahe} reached in as far as {ahe} could.] "
        'but [{ahe} was too big|the hole was too narrow|it was no use]. "[what shall we do|we will never '
        'manage it|oh no]," said the {animal}.',
        '"let me try," said {H}. [some of them laughed.|nobody listened.|"you?" said the {animal}.] "[I am '
        'small, so I can fit|sometimes small is just right|please, let me try]," said {H}.',
        "[{he} took a rope and climbed down.|{he} squeezed through the gap.|{he} crawled in, little by "
        'little.] [it was dark, but {he} went on.|{he} was afraid, but {he} did not stop.] "[hold on|I am '
        'coming|do not be afraid]," {he} called to {F}.',
        "[{he} tied the rope, and the others pulled.|with one last push, it was done.|then there was a pop, "
        'and it was over.] [{F} was safe!|everybody cheered.] "[you saved me|thank you, little {kind}|you '
        'were so brave]," said {F}.',
        '["we were wrong," said the {animal}. "you do not have to be big to be a hero."|after that, no one '
        "ever said that {H} was too small.|that evening they ate {dish}, and {H} sat in the best chair.]",
    ),
)

STAR = Plot(
    "the night sky",
    (
        "{H} could not sleep. [{he} turned this way and that way.|{he} counted to a hundred.] [the moon "
        "shone through the window.|outside, the night was clear and still.|]",
        '[so {he} got up and went outside with {G}.|{he} tiptoed to the door. {G} was still awake.|"come '
        'with me," said {G}, and they went outside.] they sat [under the big tree|on the steps|on a soft '
        "blanket] and looked up.",
        '"[how many stars are there|who lights the stars|do the stars ever sleep]?" asked {H}. "[more than '
        'anyone can count|nobody knows|that is a good question]," said {G}. [{H} tried to count them, but '
        "{he} got lost after {number}.|a cricket sang in the grass.|an owl called softly.]",
        "[suddenly a star fell across the sky.|then one star seemed to wink at {him}.|a bright light shot "
        'over the {place}.] "[make a wish|did you see that|look, look]!" said {G}. {H} closed {his} eyes '
        "and wished [for a {toy}|that {F} would come back soon|to fly one day].",
        "[that night {he} had a wonderful dream.|when {he} was back in bed, {he} began to dream.] in the "
        "dream, {he} [rode on a {color} cloud|flew over the {place}|talked with the moon]. [the moon was "
        "round and kind.|{F} was there too.|a {animal} with silver wings showed {him} the way.]",
        '"[the stars are always here, even in the day|do not be afraid of the night|you can come back any '
        'time]," said the moon. [they danced from star to star.|{H} laughed, and the stars laughed too.]',
        "in the morning, {H} [told {F} about {his} dream|drew a picture of the sky|found a little silver "
        "leaf on the window]. [was it only a dream? Nobody knows.|and after that, {he} was never afraid of "
        'the night.|"good night, stars," {he} said every evening after that.]',
    ),
)

SHOW = Plot(
    "a show",
    (
        "there was going to be a show {where}. [everybody wanted to do something.|{F} was going to "
        "sing.|every child and every animal talked about it.] but {H} [did not know what to do|thought that "
        "{he} was not good at anything|was too shy to stand in front of people].",
        '"[you could dance|you could tell a joke|why not sing]," said {F}. [{H} tried, but {he} fell over '
        '{his} own feet.|{H} tried, but no sound came out.|"I cannot do that," said {H}.] [{he} felt '
        "{sad}.|{he} went home early.|]",
        'at home, {G} was [telling a story|playing the drum|cleaning the old {toynoun}]. "[everyone is good '
        'at something|do what you love|do not try to be like the others]," said {G}. [that night {H} had an '
        "idea.|{H} thought about that all night.]",
        "[for many days, {H} worked in secret.|every day after lunch, {H} practiced behind the house.] "
        "[nobody was allowed to look.|{F} tried to peek, but the door was shut.|{he} cut out paper, and "
        "painted, and whispered to {himself}.]",
        "{time}, the show began. [{F} sang a song about the sea.|a {animal} walked on a rope.|a {animal} "
        "played the flute.] then it was {H}'s turn. [{his} knees shook.|{his} mouth was dry.|everyone grew "
        "quiet.]",
        "[{H} lifted a little stage made of a box.|{H} held up {number} paper puppets.|{H} opened {his} "
        "{color} book.] and {he} told a story about {treasure}. [{he} made a high voice and a low "
        "voice.|the people laughed at the funny parts.|everyone listened with open mouths.]",
        "[when it was over, the people clapped and clapped.|at the end, everyone stood up and cheered.] "
        '"[that was the best part of the show|do it again|how did you think of that]," said {F}. [{H} '
        "bowed, and {his} face was as red as an apple.|{H} had found the thing {he} was good at.]",
    ),
)

PLOTS = (NEW_FRIEND, WISH, TREASURE, QUARREL, RESCUE, STAR, SHOW)
