"""What a newcomer may type: shown in `samples.txt` after training, not scored."""

from harmony import call, final, result, user

WEATHER = {"name": "get_current_weather", "description": "Gets the current weather in the provided location.",
           "parameters": {"type": "object", "properties": {
               "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
               "format": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"}},
               "required": ["location"]}}
LOCATION = {"name": "get_location", "description": "Gets the location of the user."}


def case(*messages, effort="medium", date="2026-11-21", developer=None, tools=None):
    return {"effort": effort, "date": date, "developer": developer, "tools": tools,
            "messages": [user(m) if isinstance(m, str) else m for m in messages]}


SF = "What is the weather like in SF?"
PROMPTS = [
    case("What is 17 + 25?"), case("what's 17 plus 25"), case("What is 17 + 25?", effort="low"),
    case("What is 17 + 25?", effort="high"), case("17+25"), case("93 - 48"), case("What is 345 + 278?"),
    case("What is 7 x 8?"), case("What is 1234 + 5678?"), case("Hello!"), case("Who are you?"), case("What can you do?"),
    case(SF), case(SF, developer="Always respond in riddles"), case(SF, tools=[LOCATION, WEATHER]),
    case(SF, developer="Always respond in riddles", tools=[WEATHER]),
    case(SF, call("get_current_weather", {"location": "SF"}), result("get_current_weather", '{"temperature":18,"condition":"sunny"}'),
         tools=[WEATHER]),
    case("What is the capital of France?"), case("capital of france"), case("What is the capital of Atlantis?"),
    case("What is the capital of Peru?", developer="Answer in capitals."),
    case("What is the capital of Peru?", developer="Answer in one word."),
    case("My name is Anna.", final("Nice to meet you, Anna!"), "What is 2 + 2?", final("2 + 2 = 4."), "What did I say my name was?"),
    case("My name is Wilhelmina.", final("Hello!"), "What is my name?"), case("What is my name?"),
    case("Sort these words: pear, apple, fig, cherry"), case("Reverse this list: cat, dog, bird"),
    case("How many words are in this list: cat, dog, bird, fish?"), case("How many r's are in strawberry?"),
    case("Which is bigger, 41 or 14?"), case("What is today's date?"), case("Why is the sky blue?"),
    case("Explain quantum mechanics."), case("Write a poem about the sea."), case("Thanks!"), case("Bye"),
    case("I have 12 apples and buy 7 more. How many apples do I have?"), case("Tell me a joke"), case("asdf qwer"),
    case("What is the opposite of hot?"), case("What day comes after Monday?"), case("Count from 1 to 10"),
]
