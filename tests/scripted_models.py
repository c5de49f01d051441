"""Tiny checkpoints that say what a test has written for them, under the templates of real models.

Each is a Llama whose next token depends on the last one, and on which of a few marks it has seen.
Prompts are spelled in single bytes; what the model writes is made of tokens of its own, which spell
the same text but are never met in a prompt. So `scripts` says, by the last token of what was asked,
what comes: a greedy draw takes the first of several texts, a hot one any of them.
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

TEMPLATES = Path(__file__).parent / "chat_templates"
THOUGHT = "Two and two.\nThat makes 4"
ANSWER = "The answer is 4."
OTHER = "It should be 5."
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris", "days":2}}\n</tool_call>'
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Its name."},
                "days": {"type": "integer", "description": "How far to look."},
            },
            "required": ["city"],
        },
    },
}
GAP = 20.0
"""Half of the logits between what the script says and all else."""
STATES = 16
"""Marks that a model can tell apart, at most."""


def write_model(
    folder,
    scripts,
    *,
    template=None,
    specials=(),
    eos=("<|end|>",),
    bos=None,
    max_position_embeddings=4096,
):
    """Write a checkpoint.

    Args:
        folder: where to.
        scripts: by the end of what was asked (its last token counts, "" is any other) the texts
            that follow, a string or several. A key (mark, end) counts once the special token `mark`
            has been seen. Special tokens may stand in the texts; what the model says ends with the
            first of `eos`, unless the text ends with one of them.
        template: the chat template, or None for a base model.
        specials: further special tokens.
        eos: tokens that end a text; the first is the tokenizer's.
        bos: the token that a text begins with, if there is one.

    Returns:
        The folder as a string.
    """
    scripts = {k: (v,) if isinstance(v, str) else tuple(v) for k, v in scripts.items()}
    marks = list(dict.fromkeys([*([bos] if bos else []), *eos, *specials]))
    taken = {*marks, "\n\n", *map(chr, range(256))}
    said = {start: [_cut(text, marks, taken) for text in texts] for start, texts in scripts.items()}
    tokenizer = _make_tokenizer([p for texts in said.values() for t in texts for p in t], marks)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=eos[0], bos_token=bos, pad_token=eos[-1]
    )
    wrapped.chat_template = template
    rules = _find_rules(wrapped, said, eos)
    ends = [wrapped.convert_tokens_to_ids(token) for token in eos]
    model = LlamaForCausalLM(_config(len(wrapped), ends, wrapped, max_position_embeddings))
    _write_rules(model, len(wrapped), rules)
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=ends[-1])
    model.save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return str(folder)


def write_reward_model(folder, counted, *, template, specials=(), eos=("<|end|>",), bos=None):
    """Write a reward model whose score rises with the share of one token in the whole chat.

    Args:
        folder: where to.
        counted: a special token or one ASCII character.
        template: as in `write_model`, and so the rest.
    """
    marks = list(dict.fromkeys([*([bos] if bos else []), *eos, *specials]))
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=_make_tokenizer([], marks),
        eos_token=eos[0],
        bos_token=bos,
        pad_token=eos[-1],
    )
    wrapped.chat_template = template
    [token] = wrapped.encode(counted, add_special_tokens=False)
    ends = [wrapped.convert_tokens_to_ids(one) for one in eos]
    config = _config(len(wrapped), ends, wrapped, 4096)
    config.num_labels = 1
    model = LlamaForSequenceClassification(config)
    _silence(model.model, len(wrapped))
    layer, size = model.model.layers[0], config.hidden_size
    with torch.no_grad():
        # keys are all alike, so a position sees the mean of those up to it: the counted token's
        # share, which goes to the last direction, that no token has
        layer.self_attn.v_proj.weight[0, token] = 1.0
        layer.self_attn.o_proj.weight[size - 1, 0] = 1.0
        model.score.weight.zero_()
        model.score.weight[0, size - 1] = 1.0
    model.save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return str(folder)


def write_adapter(folder, model, state=0, **config):
    """Write LoRA weights with which a model answers as if it had always seen one of its marks.

    Args:
        folder: where to.
        model: a folder of `write_model`.
        state: which of the marks of its `scripts`, in their order.
        config: of peft's `LoraConfig`.
    """
    loaded = AutoModelForCausalLM.from_pretrained(model)
    settings = {"r": 8, "lora_alpha": 8, "target_modules": ["v_proj", "o_proj"]} | config
    from peft import LoraConfig, get_peft_model  # slow to import

    adapted = get_peft_model(loaded, LoraConfig(task_type="CAUSAL_LM", **settings))
    attention = loaded.model.layers[0].self_attn
    with torch.no_grad():
        for layer in (attention.v_proj, attention.o_proj):
            layer.lora_A["default"].weight.zero_()
            layer.lora_B["default"].weight.zero_()
        # every token brings a value along, which becomes the direction of the mark
        last = attention.head_dim - 1
        attention.v_proj.lora_A["default"].weight[0] = loaded.config.hidden_size**-0.5
        attention.v_proj.lora_B["default"].weight[last, 0] = 1.0
        attention.o_proj.lora_A["default"].weight[0, last] = 1.0
        attention.o_proj.lora_B["default"].weight[loaded.config.vocab_size + state, 0] = 1.0
    adapted.save_pretrained(folder)
    return str(folder)


def read_template(name):
    """The chat template of a real model: qwen3, deepseek_r1_distill, gptoss or gemma."""
    return (TEMPLATES / f"{name}.jinja").read_text()


def qwen3(folder, thought=THOUGHT, answer=ANSWER, scripts=None):
    """Thinks in tags unless `enable_thinking: false`; its template opens no thought by itself."""
    return write_model(
        folder,
        {"\n": f"<think>\n{thought}\n</think>\n\n{answer}", "\n\n": answer} | (scripts or {}),
        template=read_template("qwen3"),
        specials=QWEN,
        eos=("<|im_end|>", "<|endoftext|>"),
    )


def r1(folder, thought=THOUGHT, answer=ANSWER, scripts=None):
    """Its template opens the thought, and drops those of earlier turns."""
    return write_model(
        folder,
        {"\n": f"{thought}\n</think>\n\n{answer}"} | (scripts or {}),
        template=read_template("deepseek_r1_distill"),
        specials=R1,
        eos=("<｜end▁of▁sentence｜>",),
        bos="<｜begin▁of▁sentence｜>",
    )


def gpt_oss(folder, thought=THOUGHT, answer=ANSWER, scripts=None):
    """Thinks on a channel of its own, as harmony has it, and calls tools on a third."""
    analysis = f"<|channel|>analysis<|message|>{thought}<|end|>" if thought else ""
    # after the generation prompt, "<|start|>assistant"
    said = f"{analysis}<|start|>assistant<|channel|>final<|message|>{answer}"
    if not thought:
        said = f"<|channel|>final<|message|>{answer}"
    return write_model(
        folder,
        {"t": said} | (scripts or {}),
        template=read_template("gptoss"),
        specials=HARMONY,
        eos=("<|return|>", "<|endoftext|>", "<|call|>"),
        bos="<|startoftext|>",
    )


def gemma(folder, answer=ANSWER, scripts=None, specials=()):
    """Knows no system role, and wants user and assistant to alternate."""
    return write_model(
        folder,
        {"\n": answer} | (scripts or {}),
        template=read_template("gemma"),
        specials=("<start_of_turn>", *specials),
        eos=("<end_of_turn>", "<eos>"),
        bos="<bos>",
    )


def base(folder, answer=f" {ANSWER}", scripts=None, specials=()):
    """Has no chat template: answers whatever ends in a colon."""
    scripts = {":": answer} | (scripts or {})
    return write_model(folder, scripts, eos=("<|endoftext|>",), specials=specials)


def tool_caller(folder, call=CALL, answer=ANSWER):
    """Qwen3 without thoughts: calls a tool, and answers once that has answered."""
    return qwen3(folder, scripts={"\n": call, ("<tool_response>", "\n"): answer})


QWEN = (
    "<|im_start|>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
)
R1 = ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>")
HARMONY = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|constrain|>")
KEPT = {*QWEN[1:]}
"""Added tokens that are no special ones, as in Qwen3 and R1: decoding keeps them."""


def _cut(text, marks, taken):
    """Pieces that occur once in all of a model's scripts, so that each says what comes next."""
    parts = re.split("(" + "|".join(map(re.escape, marks)) + ")", text) if marks else [text]
    pieces = []
    for part in parts:
        if part in marks:
            pieces.append(part)
            continue
        words = re.findall(r"\s*\S+|\s+", part)
        while words:
            piece = words.pop(0)
            while piece in taken and words:
                piece += words.pop(0)
            # what is left at the end of a part joins the piece before it
            while piece in taken and pieces and pieces[-1] not in marks:
                taken.remove(pieces[-1])
                piece = pieces.pop() + piece
            while piece in taken:
                pieces.append(_free(piece, taken))
                piece = piece[len(pieces[-1]) :]
            taken.add(piece)
            pieces.append(piece)
    return pieces


def _free(piece, taken):
    for size in range(len(piece) - 1, 0, -1):
        if piece[:size] not in taken:
            taken.add(piece[:size])
            return piece[:size]
    raise ValueError(f"{piece!r} is said elsewhere already; say it otherwise")


def _make_tokenizer(pieces, marks):
    """Byte tokens, the blank line as one token as Qwen has it, the pieces, the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    vocabulary = {character: number for number, character in enumerate(alphabet)}
    line = spell.pre_tokenize_str("\n")[0][0]
    vocabulary[line * 2] = len(vocabulary)
    for piece in pieces:
        if piece not in marks:
            vocabulary.setdefault(spell.pre_tokenize_str(piece)[0][0], len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocabulary, [(line, line)]))
    tokenizer.pre_tokenizer = spell
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(m, special=m not in KEPT, normalized=False) for m in marks])
    return tokenizer


@dataclass
class _Rules:
    """What may follow, the likeliest first, by token id; None is any token not named.

    Attributes:
        states: marks by token id, the later ones win; and what each makes likelier wherever it
            may follow.
    """

    successors: dict
    states: dict


def _find_rules(tokenizer, said, eos):
    added = tokenizer.get_added_vocab()

    def identify(piece):
        spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return tokenizer.convert_tokens_to_ids(
            piece if piece in added else spell.pre_tokenize_str(piece)[0][0]
        )

    rules = _Rules({}, {})
    for start, texts in said.items():
        mark, end = start if isinstance(start, tuple) else (None, start)
        ids = tokenizer.encode(end, add_special_tokens=False)
        for pieces in texts:
            ends = [*pieces] if pieces and pieces[-1] in eos else [*pieces, eos[0]]
            numbers = [identify(piece) for piece in ends]
            changed = {}  # what has come to follow otherwise than at first
            if mark is not None:
                changed[ids[-1] if ids else None] = numbers[0]
                rules.states.setdefault(added[mark], set()).add(numbers[0])
            path = [ids[-1] if ids else None, *numbers]
            for place, (before, after) in enumerate(pairwise(path)):
                following = rules.successors.setdefault(before, [])
                if after not in following:
                    following.append(after)
                if before in path[:place]:  # a special token that stands there twice
                    between = path[path.index(before) + 1 : place]
                    state = next(number for number in between if number not in added.values())
                    changed[before] = after
                    rules.states.setdefault(state, set()).update(changed.values())
    return rules


def _config(vocabulary, ends, tokenizer, length):
    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=32 * ((vocabulary + STATES) // 32 + 1),
        intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, head_dim=32,
        max_position_embeddings=length, bos_token_id=tokenizer.bos_token_id, eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e12},
    )  # fmt: skip


def _silence(model, vocabulary):
    """Attention and MLP add nothing; every token is a direction of its own."""
    with torch.no_grad():
        for parameter in model.layers.parameters():
            parameter.zero_()
        for layer in model.layers:
            layer.input_layernorm.weight.fill_(1.0)
            layer.post_attention_layernorm.weight.fill_(1.0)
        model.embed_tokens.weight.zero_()
        model.embed_tokens.weight[range(vocabulary), range(vocabulary)] = 1.0


def _write_rules(model, vocabulary, rules):
    _silence(model.model, vocabulary)
    with torch.no_grad():
        _show_states(model, vocabulary, list(rules.states))
        head = model.lm_head.weight
        head.zero_()
        # the norm makes token and state together a direction this long
        scale = GAP / (model.config.hidden_size / 2) ** 0.5
        free = [n for n in range(vocabulary) if n not in rules.successors]
        later = set().union(*rules.states.values())
        for before, after in rules.successors.items():
            first = [number for number in after if number not in later]
            for rank, number in enumerate([*first, *(n for n in after if n in later)]):
                # all but equally likely, and yet a greedy draw has no tie to break
                likely = (4 if number in first else 3) * scale - rank * 1e-3
                head[number, free if before is None else before] = likely
        for place, made in enumerate(rules.states.values()):
            head[list(made), vocabulary + place] = 2 * scale


def _show_states(model, vocabulary, marks):
    """The last of `marks` that occurs is one more direction, whatever the length of the chat."""
    attention = model.model.layers[0].self_attn
    root = model.config.hidden_size**0.5  # length of a direction behind the norm
    still = attention.head_dim // 2 - 1  # all but unmoved by the positions
    assert len(marks) <= STATES
    attention.q_proj.weight[still, :vocabulary] = attention.head_dim**0.5 / root
    for place, mark in enumerate(marks):
        attention.k_proj.weight[still, mark] = (place + 1) * 20 / root
        attention.v_proj.weight[place, mark] = 1 / root
        attention.o_proj.weight[vocabulary + place, place] = 1.0
