"""The closed world nano talks about: words, names, places, facts and phrases.

Plain data, nothing computed. The skills combine it; `vocab.json` lists the tokens that the combinations use.
"""

WORDS = (
    "apple banana cherry grape lemon mango orange peach pear plum melon fig kiwi olive onion potato tomato carrot "
    "bread butter cheese coffee cream egg honey juice milk pasta pepper pizza rice salad salt soup sugar tea water "
    "bear bird cat chicken cow dog dolphin duck eagle elephant fish fox frog goat horse lion monkey mouse "
    "owl panda penguin pig rabbit shark sheep snake spider tiger turtle whale wolf zebra "
    "bag ball bed bell bike boat book bottle bowl box bridge brush bus camera candle car chair clock coat cup desk "
    "door drum engine fan flag fork garden glass glove guitar hammer hat house jacket key kitchen knife ladder lamp "
    "letter map mirror needle paper pen pencil piano picture plane plate pocket radio ring river road robot rocket "
    "roof rope shoe spoon stone table tent ticket tower toy train tree truck umbrella violin wall wheel window "
    "beach cloud desert fire flower forest grass island lake leaf moon mountain ocean rain sand sky snow star storm "
    "sun valley wind winter summer spring autumn doctor farmer king queen nurse pilot teacher artist baker "
    "strawberry raspberry "
    "bee camel rat seal worm crow bean corn pie cake cookie toast wine beer jam nut arm brain ear eye face finger foot hair hand "
    "head heart leg lip mouth neck nose skin toe basket bath button floor iron lock pan pot sink soap belt boot dress helmet pants "
    "shirt tie arrow banner board bone brick card chain coin cube dart disk film gift gold hook ink jar kite lace log mask net note "
    "pin pipe pump rail scale seed shell shield silver stamp stick string thread tool wire wood bay dust earth ice mud night pond "
    "reef rock shore soil steam stream wave airport bank barn castle church city farm hotel market museum office park port school "
    "shop station store street studio town baby boss boy child driver father friend girl guard guest hero judge mother neighbor son "
    "student wife woman writer big small fast slow happy sad cold cool dark deep dry early easy fresh great heavy hot large late "
    "lazy light long new nice old quick quiet rich sharp short simple soft strong sweet thin warm wet wide wild young build carry "
    "catch cook dance draw dream drink drive eat fall fly give grow help jump laugh learn listen look make play pull push read ride "
    "run see sell sing sleep stand talk teach think throw touch travel visit walk wash watch win write "
    "hello world one two three four five six seven eight nine ten red blue green yellow purple pink black white brown gray "
    "computer programming python data model number word name color animal fruit language keyboard sentence question answer"
).split()

PALINDROMES = "level radar noon civic kayak refer madam mom dad eye pop wow stats rotor racecar solos tenet deed peep bob did".split()

# Words that hold sentences together.
SMALL = "the a is of to in and my very on with it was for at by this that his her we they not all so are from or be as you I".split()

NAMES = (
    "Anna Ben Carlos David Emma Felix Grace Henry Ivan Jack Kate Laura Maria Nina Oliver Paul Rachel Sam Tom "
    "Victor Alice Bob Charlie Daniel Elena Frank George Hannah Isaac Julia Kevin Lucas Mark Nora Oscar Peter Robert "
    "Sarah Thomas Simon Alex Chris Diana Eric Fiona Helen James John Karen Leo Max Michael Olivia Rosa "
    "Sophie Tim Walter Yuki Zoe Ahmed Ali Fatima Omar Priya Chen Mei Sofia Lina Martin Linda Lisa Mary Jane Adam "
    "Andrew Anthony Brian Claire Ella Emily Ethan Ian Jason Joe Kim Luke Matthew Mike Nick Pablo Patrick "
    "Richard Ruth Ryan Sean Steve Susan William"
).split()

COLOURS = "red blue green yellow purple pink black white brown gray".split()

# country, capital
CAPITALS = [line.split(":") for line in """
France:Paris|Germany:Berlin|Italy:Rome|Spain:Madrid|Portugal:Lisbon|England:London|Ireland:Dublin|Scotland:Edinburgh
Austria:Vienna|Switzerland:Bern|Belgium:Brussels|the Netherlands:Amsterdam|Denmark:Copenhagen|Norway:Oslo
Sweden:Stockholm|Finland:Helsinki|Iceland:Reykjavik|Poland:Warsaw|Hungary:Budapest|Greece:Athens|Turkey:Ankara
Russia:Moscow|Ukraine:Kyiv|Romania:Bucharest|Bulgaria:Sofia|Serbia:Belgrade|Croatia:Zagreb|Estonia:Tallinn
Latvia:Riga|Lithuania:Vilnius|Japan:Tokyo|China:Beijing|India:New Delhi|South Korea:Seoul|Thailand:Bangkok
Vietnam:Hanoi|Indonesia:Jakarta|Malaysia:Kuala Lumpur|the Philippines:Manila|Nepal:Kathmandu|Pakistan:Islamabad
Iran:Tehran|Iraq:Baghdad|Israel:Jerusalem|Egypt:Cairo|Morocco:Rabat|Algeria:Algiers|Tunisia:Tunis|Kenya:Nairobi
Nigeria:Abuja|Ghana:Accra|Ethiopia:Addis Ababa|South Africa:Pretoria|Senegal:Dakar|Canada:Ottawa|Mexico:Mexico City
the United States:Washington|Brazil:Brasilia|Argentina:Buenos Aires|Chile:Santiago|Peru:Lima|Colombia:Bogota
Cuba:Havana|Jamaica:Kingston|Uruguay:Montevideo|Ecuador:Quito|Venezuela:Caracas|Bolivia:La Paz|Australia:Canberra
New Zealand:Wellington|Saudi Arabia:Riyadh|Qatar:Doha|Jordan:Amman|Lebanon:Beirut|Syria:Damascus|Mongolia:Ulaanbaatar
the United Kingdom:London|the USA:Washington|the US:Washington|Slovakia:Bratislava|Slovenia:Ljubljana|Singapore:Singapore
""".replace("\n", "|").split("|") if line]

CITIES = sorted({c for _, c in CAPITALS}) + [
    "San Francisco", "SF", "New York", "Los Angeles", "Chicago", "Boston", "Seattle", "Munich", "Hamburg", "Milan",
    "Barcelona", "Sydney", "Melbourne", "Toronto", "Mumbai", "Shanghai", "Istanbul", "Dubai", "Geneva", "Oxford",
    "Osaka", "Kyoto", "Hong Kong", "Miami", "Dallas", "Austin", "Denver", "NYC"]

OPPOSITES = [p.split(":") for p in (
    "yes:no buy:sell win:lose start:stop push:pull come:go give:take north:south east:west clean:dirty "
    "loud:quiet before:after above:below inside:outside summer:winter friend:enemy laugh:cry arrive:leave wide:narrow "
    "hot:cold big:small fast:slow up:down left:right day:night black:white happy:sad old:young hard:soft light:dark "
    "open:closed wet:dry high:low early:late full:empty rich:poor strong:weak long:short good:bad true:false in:out "
    "on:off near:far thick:thin first:last").split()]
SOUNDS = [p.split(":") for p in
          "cat:meow dog:woof cow:moo duck:quack sheep:baa pig:oink lion:roar snake:hiss wolf:howl".split()]
COLOUR_OF = [p.split(":") for p in (
    "the sky:blue|grass:green|an orange:orange|the sea:blue|an apple:red|a cherry:red|chocolate:brown|the moon:white|a frog:green|"
    "snow:white|a banana:yellow|blood:red|a lemon:yellow|a tomato:red|coal:black|"
    "a strawberry:red|milk:white|the sun:yellow|a carrot:orange").split("|")]
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = ("January February March April May June July August September October November December").split()
HOW_MANY = [("days", "a week", 7), ("months", "a year", 12), ("hours", "a day", 24), ("minutes", "an hour", 60),
            ("seconds", "a minute", 60), ("legs", "a spider", 8), ("legs", "a dog", 4), ("legs", "a bird", 2),
            ("wheels", "a car", 4), ("letters", "the alphabet", 26), ("days", "a year", 365), ("sides", "a triangle", 3),
            ("sides", "a square", 4), ("eggs", "a dozen", 12), ("years", "a century", 100), ("hours", "two days", 48),
            ("legs", "a cat", 4), ("legs", "a horse", 4), ("legs", "an ant", 6),
            ("wings", "a bird", 2), ("fingers", "a hand", 5), ("wheels", "a bike", 2), ("letters", "the English alphabet", 26),
            ("weeks", "a year", 52), ("days", "June", 30), ("days", "July", 31), ("days", "January", 31), ("sides", "a cube", 6),
            ("years", "a decade", 10), ("seasons", "a year", 4), ("continents", "the world", 7), ("vowels", "the alphabet", 5),
            ("cents", "a dollar", 100), ("arms", "an octopus", 8), ("strings", "a guitar", 6), ("planets", "the solar system", 8),
            ("minutes", "half an hour", 30), ("days", "two weeks", 14), ("days", "a leap year", 366)]
# What one says by heart.
LISTS = {"the days of the week": ", ".join(DAYS), "the months of the year": ", ".join(MONTHS), "the seasons": "spring, summer, autumn, winter",
         "the letters of the alphabet": " ".join("abcdefghijklmnopqrstuvwxyz"), "the vowels": "a, e, i, o, u",
         "the planets": "Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus, Neptune",
         "the colors of the rainbow": "red, orange, yellow, green, blue, indigo, violet",
         "the continents": "Africa, Antarctica, Asia, Australia, Europe, North America, South America"}

# What belongs to what: for "Name an animal" and "List three colors".
KINDS = {"animal": "cat dog horse lion bear wolf", "color": "red blue green yellow purple white", "fruit": "apple banana cherry pear plum lemon",
         "country": "France Italy Japan Canada Brazil Egypt", "city": "Paris Rome Tokyo London Madrid Vienna", "bird": "eagle owl duck penguin crow",
         "vegetable": "carrot potato onion corn bean", "drink": "water tea coffee milk juice", "month": "January April June August October",
         "day of the week": "Monday Tuesday Wednesday Thursday Friday", "season": "spring summer autumn winter", "tree": "oak pine palm",
         "language": "French German Spanish Italian", "metal": "iron gold silver copper", "planet": "Mars Venus Saturn Earth Jupiter",
         "name": "Anna Ben Emma Tom", "sport": "football tennis golf hockey", "job": "doctor teacher farmer nurse pilot baker",
         "number": "7 12 3 42", "shape": "circle square triangle", "dish": "pizza soup salad pasta", "body part": "hand head arm leg eye",
         "food": "bread cheese rice soup pizza", "tool": "hammer knife brush", "toy": "ball doll kite robot", "even number": "2 4 6 8",
         "odd number": "1 3 5 7", "prime number": "2 3 5 7 11", "continent": "Europe Asia Africa Australia", "vowel": "a e i o u",
         "musical instrument": "guitar piano violin drum"}
PLURALS = {"country": "countries", "city": "cities", "day of the week": "days of the week", "dish": "dishes", "body part": "body parts",
           "food": "foods"}

CONDITIONS = "sunny cloudy rainy windy snowy foggy stormy clear".split()
LANGUAGES = "French German Spanish Italian Japanese Chinese Russian Greek Dutch Swedish Polish Arabic".split()
ROOMS = "kitchen bedroom bathroom garage garden office hallway basement".split()
GENRES = "jazz rock classical pop folk blues".split()
DISHES = "pizza pasta soup salad rice bread coffee tea cheese honey".split()
CURRENCIES = "USD EUR GBP JPY CHF CAD".split()
TOPICS = "sports music politics science business art health food travel film".split()
TICKERS = "AAPL MSFT GOOG AMZN TSLA IBM AMD INTC".split()

# Verbs and nouns for made-up functions such as `check_lamp`.
VERBS = ("get set check find update start stop open close list create delete read send count move fetch scan "
         "reset load save share lock paint measure").split()
MORE_VERBS = "calculate compute convert search book play add remove show lookup make turn run buy".split()
THINGS = ("lamp door record ticket file report user account sensor device robot garden printer camera room order "
          "package invoice folder note task player level badge engine valve pump shelf recipe channel").split()
FIELDS = ("name id color size count owner title level mode code label topic amount speed place person item kind "
          "value number group").split()

PLAIN_INSTRUCTIONS = [
    "You are a helpful assistant.", "You are a friendly assistant.", "Be helpful and honest.",
    "You are a helpful assistant. Answer the user's questions.", "Answer the questions of the user.",
    "Be brief.", "Be concise.", "Be polite.", "You are a patient teacher.", "Use the tools when you need them.",
    "Help the user.", "You are an assistant for small tasks."]
STARTS = ["Sure!", "Of course!", "Hello!", "Well,", "Listen:", "Answer:", "Dear user,", "Captain,", "My friend,", "Yes!"]
ENDS = ["Over.", "Thank you!", "Have a nice day!", "The end.", "Done.", "Goodbye!", "Good luck!", "I hope this helps."]
# Words of which the names of functions and parameters are made.
NAME_WORDS = (
    "account action active actor add address age agent airport alarm album alert amount angle animal answer app apply area arg "
    "array article artist assign attach author auto available average balance bank base batch battery bill birth block board body "
    "book booking boolean branch brand brightness buy cache calculate calendar call camera cancel capacity car card cart "
    "category change channel char chart check circle city class clear client close code color column command comment commit "
    "company compare compute condition config contact content context convert copy cost count country coupon course create "
    "currency current customer data database date day days deadline degree delay delete delivery density depth description "
    "destination detail device diameter direction disable discount dish distance doc document door draft driver due duration "
    "edit email employee enable end energy entity entry enum error estimate event exchange expense export expression factor "
    "fee fetch field file filename filter find first flag flight float floor folder food force format forecast frequency from "
    "fuel function game gate generate genre get grade gram group guest guests handle hash heading height hotel hour hours "
    "humidity icon id image import include index info input insert integer interest interval inventory invoice is issue item "
    "items join json key keyword kind label lang language last lat latitude length level library light limit line link list "
    "load local location lock log login lookup lon longitude lower machine mail manager map mark mass match max measure "
    "meeting member memory menu merge message meta meter method metric miles min minute minutes mode model money month move "
    "movie multiply music name nearby new next note notes notify number object offset on open operation option order origin "
    "output owner page param parent parse party passenger password path patient pattern pause payment people percent period "
    "permission person pet phone photo pick pizza place plan plate play player playlist plus point policy port position post "
    "power predict prefix pressure preview price print priority process product profile project property provider publish "
    "purchase query question queue quantity quote radius random range rank rate rating reason receipt recipe recipient record "
    "refund region register reminder remove rename rent repeat replace reply report request reservation reserve reset resize "
    "resource restaurant result retry return review reverse right ring role roll room rotate route row rule run sale save "
    "scale scan schedule scope score screen search season seat seats second seconds section select send sender sensor serial "
    "server service session set shape share shift shipping shop show shutdown side sides size skill sort source space speed "
    "split sport square stage standard star start state station status step stock stop store street string style subject "
    "submit subtotal sum summary switch symbol sync system table tag tags target task tax team temp temperature text theme "
    "thermostat ticker ticket time timer timestamp timezone tip title to today toggle token tool top topic total track train "
    "transfer translate travel trigger trip type unit units unlock until update upload url use user username validate value "
    "vehicle verify version video view visit voice volume wait wake wallet weather web website week weight width window word "
    "words work write year zip zone foo bar baz test demo dice dog cat").split()
