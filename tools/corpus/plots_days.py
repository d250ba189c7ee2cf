"""Plots about ordinary days: outings, chores, pets, snow, trips and bedtime."""

from __future__ import annotations

from corpus.plot import Plot

OUTING = Plot(
    "a day out",
    (
        "{time}, {H} [and {G} went to the {place}|went to the {place} with {G}]. [{weather}|{sound}.] [{H} "
        'could not stop hopping.|"what shall we do first?" asked {H}.|]',
        '[first {he} {acted}.|{H} wanted to {act} right away.|"I want to {act}!" said {H}.] [it was great '
        "fun.|{G} laughed and watched.|it made {him} very {happy}.] [then {he} saw {sight}.|near {sight}, "
        "{he} found {treasure}.|]",
        '[after that {he} met {F}, a {trait} {fkind}.|then {F} came along. {F} was a {trait} {fkind}.] "[do '
        'you want to {act2} with me|come with me, I want to {act2}|have you ever tried to {act2}]?" asked '
        '{F}. "[yes, please|I would love to|what fun]!" said {H}.',
        "so they {acted2}. [{F} was very good at {acting2}.|{H} showed {F} a trick.|they forgot the time.] "
        '[{sound}, and the air smelled [sweet|of flowers|fresh].|"this is so much fun!" said {F}.|]',
        "[at noon they sat down to eat {snacks}.|soon they were hungry, so {G} gave them {snacks}.|{G} "
        "brought out a bag of {snacks}.] [a {animal} came close, and they gave {ahim} some crumbs.|they ate "
        "so much that they could hardly move.|]",
        '[when the sun went down, it was time to go home.|all too soon, the day was over.|"time to go," '
        'said {G}.] [{H} waved to {F}.|"see you soon!" said {F}.] [on the way home, {H} fell asleep.|{he} '
        "was tired, but it was a good kind of tired.]",
        '[that night {he} dreamed of the {place}.|"can we go again tomorrow?" {he} asked.|it was a day to remember.]',
    ),
)

CHORES = Plot(
    "helping at home",
    (
        "{time}, {G} had a lot to do. [the floor was dirty, and the dishes were piled up high.|the garden "
        'was full of weeds.|there was wood to stack and soup to cook.] "[I am so tired|how will I ever '
        'finish|so much work]," said {G}.',
        "{H} [wanted to go out and {act}|was playing with {his} {toynoun}|was just about to go to the "
        "{place}]. [but then {he} saw {G}'s tired face.|{he} looked at {G} and put down {his} "
        "{toynoun}.|{he} stopped at the door.]",
        '"[sit down and rest|let me help you|I can do something]," said {H}. [{he} swept the floor.|{he} '
        "washed the cups, one by one.|{he} carried water from the well.] [then {he} fed the hens.|then {he} "
        "folded the towels.|then {he} picked up all {his} toys.]",
        "[oops! A cup fell, but it did not break.|soap bubbles flew everywhere.|it was harder than {he} had "
        "thought.] [{he} made a game of it.|{he} sang while {he} worked.|{he} pretended that the broom was "
        "a horse.] [soon {F} came and helped too.|]",
        "[when {G} woke up, everything was clean.|{G} opened {ghis} eyes and looked around.|{G} came back "
        'and could not believe it.] "[who did all this|is this my house|did a good elf come by]?" {ghe} '
        'asked. ["I did!" said {H} with a smile.|{H} giggled behind the door.]',
        '[{G} gave {him} a big hug.|"you made me so {happy}," said {G}.] "[now we both have time to '
        'play|let us go to the {place} together|now we can make {dish}]," said {G}. [and that is what they '
        "did.|so they went out and {acted}.]",
        "[{H} learned that many small hands make work light.|{H} felt tall that day.|helping can be as much "
        "fun as playing.]",
    ),
)

PET = Plot(
    "a new pet",
    (
        "{H} wanted a pet more than anything. [{he} asked for one every day.|{he} drew pictures of pets and "
        'put them on the wall.] "[a pet is a lot of work|you must be ready to take care of it|we will '
        'see]," said {G}.',
        "{time}, {H} heard a small sound {where}. [it came from under a bush.|it came from behind "
        "{sight}.|{he} stopped and listened.] it was a tiny [kitten|puppy|bird|duckling]. [it was cold and "
        "wet.|it was all alone.|its leg was hurt.]",
        '"[do not be afraid|you poor little thing|come here, little one]," said {H}. [{he} wrapped it in '
        "{his} scarf.|{he} held it very gently.] [it shook, but it did not run away.|it looked at {him} "
        "with big round eyes.] then {he} took it home.",
        '"[what have you got there|oh my|where did you find it]?" said {G}. "[please can we keep it|it has '
        'no home|it needs our help]," said {H}. [{G} looked at the little thing for a while.|{G} thought '
        'about it.] "[first we must find out if it belongs to someone|we will take care of it tonight|it '
        'needs warm milk and a bed]," {ghe} said.',
        "[{H} made a bed in a box.|every day {H} fed it and kept it clean.|{H} got up early to look after "
        "it.] [{F} came to see it.|{F} brought it a soft blanket.|they asked everyone {where}, but nobody "
        "had lost it.] [day by day, it grew stronger.|soon it ran through the whole house.]",
        '"[you have taken very good care of it|now I know that you are ready|I think it has found its '
        'home]," said {G}. "you may keep it." [{H} jumped up and down.|{H} was the happiest {kind} in the '
        "world.|{H} did not know what to say.]",
        "[{he} named it [Button|Biscuit|Star|Sunny|Pepper].|they gave it a {color} ribbon and a name.] "
        "[from then on, the two of them were always together.|every night it slept at the end of {his} bed.]",
    ),
)

SNOW = Plot(
    "a snowy day",
    (
        "when {H} woke up, everything was white. [it had snowed all night.|the trees, the roofs, and the "
        'road were covered with snow.] "[snow, snow|come and look, {G}|it is winter at last]!" {he} shouted.',
        "{he} put on [a warm coat and a {color} scarf|two sweaters and a {color} hat|boots, a hat, and "
        "thick gloves] and ran outside. [the snow went crunch, crunch under {his} feet.|the air was cold "
        'and clear.] {F} was already there. "[let us build a snowman|let us make a big snow house|who can '
        'make the biggest snowball]," said {F}.',
        "[they rolled the snow into big balls.|they pushed, and rolled, and patted the snow.] [one ball was "
        "so heavy that they could not lift it.|{F} slipped and sat down in the snow.] [they laughed until "
        "their tummies hurt.|then {G} came to help them.]",
        "[they gave it a carrot nose and two stone eyes.|for the nose they took a long carrot.] [{H} gave "
        'it {his} own scarf.|{F} put an old hat on its head.] "[now he looks like a real man|he needs a '
        'name|he is smiling at us]," said {H}.',
        '[then they saw a {stranger} in the snow.|a {stranger} sat under a tree and shook with cold.] "[I '
        'have nothing to eat|I am so cold|my home is covered with snow]," {ahe} said. [{H} and {F} looked '
        "at each other.|] [they gave {ahim} {snacks} and a warm blanket.|they took {ahim} home and put "
        "{ahim} near the fire.]",
        "[in the evening they all drank hot cocoa.|{G} made {dish} for everyone.|they sat by the fire and "
        "told stories.] [outside, the snow fell softly.|the {animal} fell asleep and smiled.|the window was "
        "white with frost.]",
        "[the next day the sun came out, and the snowman got smaller.|when spring came, the snowman "
        'melted.] "[he will come back next winter|goodbye, snowman|he only went to sleep]," said {H}. [and '
        "the {animal} came back too, to say thank you.|and they waved until he was gone.]",
    ),
)

BOAT = Plot(
    "a boat trip",
    (
        '{G} had a small {color} boat. {time}, {ghe} asked, "[who wants to come with me|shall we sail to '
        'the island|are you ready for a trip]?" "[I do|yes|me, me]!" cried {H}.',
        "[{Fk} came too.|{H} asked {F} to come along.] [they took {snacks} and a bottle of water.|they put "
        "on their hats.] [{H} sat in front, and {F} sat in the back.|the boat rocked gently from side to "
        "side.] [the water was as smooth as glass.|small waves slapped against the boat.]",
        '[they saw a fish jump.|a white bird flew over them.|{H} put {his} hand in the cool water.] "[look '
        'over there|what is that|do you see it too]?" said {F}. [far away, something was moving in the '
        "water.|a dark shape swam under the boat.|there was something {color2} on the waves.]",
        '[it was a small {animal} on a log.|it was a {stranger} who held on to a piece of wood.] "[help, '
        'help|I cannot swim|the river took me away]!" {ahe} called. [{G} turned the boat.|"hold on!" '
        "shouted {H}.]",
        '[{H} threw a rope.|{F} held out a long stick.] [the first time it fell short.|"catch it!" said '
        "{F}.] [but the second time the {animal} caught it.|then the {animal} took hold of it.] [they "
        "pulled together, and soon {ahe} was safe.|one, two, three, and {ahe} was in the boat.]",
        '[they dried {ahim} with a towel.|{G} gave {ahim} a warm blanket.] "[thank you|you came just in '
        'time|I was so afraid]," said the {animal}. [they sailed on to the island and had a picnic.|on the '
        "island they {acted} and ate {snacks}.]",
        "[on the way home the sun went down, and the water turned gold.|when the moon came up, they sailed "
        'home.] "[that was a real adventure|I want to be a sailor|can we go again]," said {H}. [{G} only '
        "smiled.|everyone agreed.]",
    ),
)

BEDTIME = Plot(
    "bedtime",
    (
        'the moon was up, but {H} did not want to go to bed. "[I am not tired|just five more minutes|the '
        'day is too short]," {he} said. [{G} smiled.|{G} tucked {him} in.|{he} hid under the table with '
        "{his} {toynoun}.]",
        '"[first you need your pajamas|brush your teeth, please|shall I tell you a story]," said {G}. [{H} '
        'brushed {his} teeth very slowly.|{H} climbed into bed with {his} {toynoun}.] "[now I am thirsty|I '
        'hear a noise|there is a shadow on the wall]," {he} said.',
        '[{G} gave {him} a glass of water.|{G} looked under the bed. "there is nothing but a sock," {ghe} '
        'said.|"that is only the coat on the door," said {G}.] then {G} told {him} about a {trait} {animal} '
        "[who lived {where}|who wanted to fly to the moon|who could not sleep either].",
        "[every night the {animal} counted the stars.|one day the {animal} found {treasure}.|the {animal} "
        "had a {color} hat and a {toy}.] [{ahe} asked everyone how to fall asleep.|{ahe} wanted to show it "
        'to all {ahis} friends.|{ahe} walked and walked until {ahis} feet hurt.] "[breathe in, and breathe '
        'out|think of something nice|close your eyes and listen]," said an owl.',
        "[so the {animal} thought of {snacks} and soft grass.|the {animal} lay down and listened to the "
        'rain.] [{ahis} eyes grew heavy.|{ahe} yawned a big yawn.] "and then?" asked {H}. {he} yawned too. '
        '["then it was very quiet," said {G}.|"then the {animal} dreamed of you," said {G}.]',
        "[when {G} looked, {H} was asleep.|{H} did not hear the end of the story.] [{G} turned off the "
        'light.|{G} kissed {him} on the head.] "[good night|sleep tight|sweet dreams]," {ghe} whispered.',
        "[outside, the moon shone on the {place}.|and somewhere far away, a {animal} was sleeping too.|all "
        "was quiet, and all was well.]",
    ),
)

PLOTS = (OUTING, CHORES, PET, SNOW, BOAT, BEDTIME)
