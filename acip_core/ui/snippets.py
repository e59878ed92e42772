"""Code that visitors take with them: how to load what they exported, how to use the page from Python."""

from __future__ import annotations

ADDRESS = "http://localhost:7860/"  # the page puts its own in its place
SIZE, MODE = "@size@", "@mode@"  # and those of its slider


def loading_code(name: str, custom: bool) -> str:
    """Three lines that load an exported folder.

    Args:
        custom: whether code beside the weights is needed.
    """
    option = ", trust_remote_code=True" if custom else ""
    return (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f'model = AutoModelForCausalLM.from_pretrained("{name}"{option})\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{name}"{option})'
    )


def usage(model: str) -> list[tuple[str, str, str]]:
    """What runs a model at the size shown outside of the page: kind, title and code.

    In the code, SIZE and MODE stand for those of the slider.
    """
    prompt = '"The capital of Germany is called"'
    python = (
        "from acip_core import AcipModel\n"
        f'model = AcipModel.from_pretrained("{model}", size={SIZE}, mode="{MODE}")\n'
        f"print(model.complete({prompt}, max_new_tokens=20))"
    )
    command = f"acip generate {model} {prompt} --size {SIZE} --spend {MODE}"
    llama = (
        f"acip export {model} small --size {SIZE} --spend {MODE} --format gguf\n"
        f"llama-cli -m small/model.gguf -no-cnv -p {prompt}"
    )
    return [("python", "Python", python), ("shell", "Command line", command), ("llama", "llama.cpp", llama)]


def client_code() -> str:
    """Every public endpoint called with the real client."""
    return f'''from gradio_client import Client

client = Client("{ADDRESS}")
settings = dict(temperature=0, top_p=1, seed=0, length=32, chat=False)
directions = dict(mode="directions")  # what may be spent: directions, bits or both

written = directions | dict(repetition_penalty=1.1)

# one completion at 70 %; the last message has the whole text
print(client.predict("The capital of France is", 70, *settings.values(), **written, api_name="/complete")["text"])

# the same prompt at several sizes, side by side
asked = ("The capital of France is", [100, 60], *settings.values())
columns = client.predict(*asked, **written, api_name="/compare")["columns"]
print({{column["percent"]: "".join(text for text, _ in column["tokens"]) for column in columns}})

# perplexity on held-out text at 60 %, while it is measured
for message in client.submit(60, **directions, api_name="/measure"):
    print(message["status"])

# tokens per second of every size on the machine that serves the page
print(client.predict(**directions, api_name="/speed")["speeds"])

# a text of your own at many sizes, and the token that 60 % finds hardest
read = client.predict("The quick brown fox jumps over the lazy dog.", 60, **directions, api_name="/read")
print({{size["percent"]: size["perplexity"] for size in read["sizes"]}})
losses = next(size["losses"] for size in read["sizes"] if size["percent"] == 60)
losses = [float(loss) for loss in losses.split()]
print(read["pieces"][losses.index(max(losses))])

# the model at 60 % as a ZIP file
file = client.predict(60, **directions, api_name="/export")
print("{ADDRESS}" + file["address"], file["bytes"])
'''
