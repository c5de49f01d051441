"""Rows in the layouts of public datasets: their columns and types, with content of our own."""

HH = "\n\nHuman: {}\n\nAssistant:{}"


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def turns(*texts):
    return [(user, assistant)[n % 2](text) for n, text in enumerate(texts)]


def rating(value):
    return {"Rating": value, "Rationale": "because"}


def ultrafeedback():
    def completion(n, k):
        names = ("instruction_following", "honesty", "truthfulness", "helpfulness")
        score = None if (n, k) == (2, 0) else (3.0 if n == 9 else 1.0 + (n + k) % 4)
        return {
            "annotations": {name: rating("N/A" if n == 3 else str(1 + k)) for name in names},
            "custom_system_prompt": "You are helpful.",
            "model": f"model-{k}",
            "principle": "helpfulness",
            "response": f"Answer {k} to {n}.",
            "critique": "fine",
            "overall_score": 10.0 if k == 0 else 7.5,
            "fine-grained_score": score,
        }

    return [
        {
            "source": "evol_instruct",
            "instruction": f"Question {n}?",
            "models": [f"model-{k}" for k in range(4)],
            "completions": [completion(n, k) for k in range(4)],
            "correct_answers": ["None"],
            "incorrect_answers": ["None"],
        }
        for n in range(10)
    ]


def binarized():
    return [
        {
            "source": "sharegpt",
            "prompt": f"Question {n}?",
            "chosen": turns(f"Question {n}?", f"Good answer {n}."),
            "chosen-rating": 5.0 if n != 4 else 3.0,
            "chosen-model": "gpt-4",
            "rejected": turns(f"Question {n}?", f"Bad answer {n}." if n != 5 else ""),
            "rejected-rating": 2.5 if n != 4 else 3.0,
            "rejected-model": "alpaca-7b",
        }
        for n in range(10)
    ]


def binarized_h4():
    return [
        {
            "prompt": f"Question {n}?",
            "prompt_id": f"{n:064x}",
            "chosen": turns(f"Question {n}?", f"Good answer {n}."),
            "rejected": turns(f"Question {n}?", f"Bad answer {n}."),
            "messages": turns(f"Question {n}?", f"Good answer {n}."),
            "score_chosen": 8.0,
            "score_rejected": 8.0 if n == 0 else 6.0,
        }
        for n in range(8)
    ]


def helpsteer2():
    long = "Question {}?\n<extra_id_1>Assistant\nWhy?\n<extra_id_1>User\nBecause {}."
    return [
        {
            "prompt": (long if n % 4 == 0 else "Question {}, {}?").format(n, n),
            "response": f"Answer {k} to {n}.",
            "helpfulness": (n + 2 * k) % 5,
            "correctness": 4 - k,
            "coherence": 4,
            "complexity": 1 + k,
            "verbosity": 2,
        }
        for n in range(8)
        for k in range(2)
    ]


def helpsteer3():
    told = [-3, -2, -1, 0, 1, 2, 3, -1, 0, 2]
    return [
        {
            "domain": "general",
            "language": "english",
            "context": turns(*(f"Turn {n} {t}" for t in range(1 + 2 * (n % 2)))),
            "response1": f"First answer {n}.",
            "response2": f"Second answer {n}.",
            "overall_preference": preference,
            "individual_preference": [
                {"score": preference, "reasoning": "clear", "feedback1": "a", "feedback2": "b"}
            ],
        }
        for n, preference in enumerate(told)
    ]


def nectar():
    return [
        {
            "prompt": HH.format(f"Question {n}?", " "),
            "answers": [
                {"answer": f"Answer {k} to {n}.", "model": f"model-{k}", "rank": float(k + 1)}
                for k in range(7)
            ],
            "turns": 1,
            "num_responses": 7,
            "source": ["lmsys-chat-1m"],
            "good_natured": True,
        }
        for n in range(8)
    ]


def hh_rlhf():
    def pair(n):
        begin = HH.format(f"Question {n}?", f" Why {n}?") * (n % 3)
        good, bad = f" Good answer {n}.", f" Bad answer {n}."
        if n == 6:  # as about one in a hundred: the human's turns differ, too
            return HH.format("Hi", good), HH.format("Hello", bad)
        last = f"So {n}?"
        return begin + HH.format(last, good), begin + HH.format(last, "" if n == 7 else bad)

    return [dict(zip(("chosen", "rejected"), pair(n), strict=True)) for n in range(12)]


def pku_saferlhf():
    return [
        {
            "prompt": f"Question {n}?",
            "prompt_source": "gpt",
            **{f"response_{k}": f"Answer {k} to {n}." for k in range(2)},
            **{f"response_{k}_source": f"Alpaca-{k + 1}B" for k in range(2)},
            **{f"is_response_{k}_safe": k == 1 for k in range(2)},
            **{f"response_{k}_harm_category": {"Privacy Violation": k == 0} for k in range(2)},
            **{f"response_{k}_severity_level": 1 - k for k in range(2)},
            "better_response_id": n % 2,
            "safer_response_id": 1,
            **{f"response_{k}_sha256": f"{n:064x}" for k in range(2)},
        }
        for n in range(10)
    ]


def chatbot_arena_conversations():
    votes = ["model_a", "model_b", "tie", "tie (bothbad)"]

    def talk(n, side):
        texts = [part for t in range(1 + n % 3) for part in (f"Ask {n} {t}", f"{side} {n} {t}")]
        return turns(*texts)

    return [
        {
            "question_id": f"{n:032x}",
            "model_a": "vicuna-13b",
            "model_b": "koala-13b",
            "winner": votes[n % 4],
            "judge": f"arena_user_{n}",
            "conversation_a": talk(n, "Left"),
            "conversation_b": talk(n, "Right"),
            "turn": 1 + n % 3,
            "anony": True,
            "language": "English",
            "tstamp": 1682351591.1322,
            "openai_moderation": {"categories": {"hate": False}, "flagged": False},
            "toxic_chat_tag": {"roberta-large": {"flagged": False, "probability": 0.01}},
        }
        for n in range(12)
    ]


def tulu_3():
    def chat(n, answer):
        return turns(*[f"Turn {n} {t}" for t in range(2 * (n % 2))], f"Question {n}?", answer)

    return [
        {
            "id": f"{n:08x}",
            "prompt": chat(n, "")[0]["content"],
            "chosen": chat(n, f"Good answer {n}."),
            "rejected": chat(n, f"Good answer {n}." if n == 3 else f"Bad answer {n}."),
            "source": "ai2-adapt-dev/off-policy",
        }
        for n in range(10)
    ]


def llama3_ultrafeedback():
    return [
        {
            "prompt_id": f"{n:064x}",
            "prompt": f"Question {n}?",
            "all_generated_responses": [f"Answer {k if n else 0} to {n}." for k in range(5)],
            "all_rm_scores": [0.1 * ((k * (n + 1)) % 5) for k in range(5)],
            "chosen": turns(f"Question {n}?", f"Answer 4 to {n}."),
            "rejected": turns(f"Question {n}?", f"Answer 0 to {n}."),
        }
        for n in range(8)
    ]


def distilabel():
    return [
        {
            "instruction": f"Question {n}?",
            "generations": [f"Answer {k} to {n}." for k in range(3)][: 2 if n == 1 else 3],
            "generation_models": ["a-7b", "b-8b", "c-9b"],
            "distilabel_metadata": {"raw_input_ultra_feedback_0": turns("rate")},
            "ratings": [None if n == 2 else 1 + (n + k) % 5 for k in range(3)],
            "rationales": ["clear"] * 3,
            "model_name": "judge-70b",
        }
        for n in range(8)
    ]


def openai():
    def choice(n, k):
        message = assistant(f"Answer {k} to {n}.") | {"refusal": None}
        ended = "length" if (n, k) == (1, 3) else "stop"
        return {"index": k, "message": message, "finish_reason": ended, "score": float(k)}

    def response(n):
        choices = [choice(n, k) for k in range(4)]
        told = {"id": f"chatcmpl-{n}", "object": "chat.completion", "created": 1_760_000_000 + n}
        return told | {"model": "gpt-x", "choices": choices, "usage": {"completion_tokens": 9}}

    system = {"role": "system", "content": "Be brief."}
    return [
        {
            "request": {"model": "gpt-x", "n": 4, "messages": [system, user(f"Question {n}?")]},
            "response": response(n),
        }
        for n in range(8)
    ]


def trl():
    return [
        {
            "prompt": [user(f"Question {n}?")],
            "chosen": [assistant(f"Good answer {n}.")],
            "rejected": [assistant(f"Bad answer {n}.")],
        }
        for n in range(8)
    ]


def trl_texts():
    return [
        {"prompt": f"The sky {n} is", "chosen": f" blue {n}.", "rejected": f" green {n}."}
        for n in range(8)
    ]


def trl_implicit():
    system = {"role": "system", "content": "Be brief."}
    return [
        {
            "chosen": [system, *turns(f"Question {n}?", f"Good answer {n}.")],
            "rejected": [system, *turns(f"Question {n}?", f"Bad answer {n}.")],
        }
        for n in range(8)
    ]


def trl_implicit_texts():
    return [
        {"chosen": f"The sky {n} is blue.", "rejected": f"The sky {n} is green."} for n in range(8)
    ]


LAYOUTS = {
    "ultrafeedback": ultrafeedback,
    "ultrafeedback-binarized-preferences-cleaned": binarized,
    "ultrafeedback_binarized": binarized_h4,
    "helpsteer2": helpsteer2,
    "helpsteer3": helpsteer3,
    "nectar": nectar,
    "hh-rlhf": hh_rlhf,
    "pku-saferlhf": pku_saferlhf,
    "chatbot_arena_conversations": chatbot_arena_conversations,
    "llama-3.1-tulu-3-8b-preference-mixture": tulu_3,
    "llama3-ultrafeedback-armorm": llama3_ultrafeedback,
    "distilabel": distilabel,
    "openai": openai,
    "trl": trl,
    "trl-implicit": trl_implicit,
}
