"""Chat templates in the manner of the model families: what stands around a message, and where.

Written for the tests, in our words. What is of a family is the structure: its control tokens, what
it trims, what it does with a system message, what it adds to an answer that no prompt has.
"""

# BOS, the system message inside the first user turn, everything trimmed, spaces in the brackets.
LLAMA_2 = """\
{%- set lead = namespace(text='') -%}
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{%- set lead.text = '<<SYS>>\\n' + message.content | trim + '\\n<</SYS>>\\n\\n' -%}
{%- elif message.role == 'user' -%}
{{- bos_token + '[INST] ' + lead.text + message.content | trim + ' [/INST]' -}}
{%- set lead.text = '' -%}
{%- else -%}
{{- ' ' + message.content | trim + ' ' + eos_token -}}
{%- endif -%}
{%- endfor -%}"""

# BOS by the template as well as by the tokenizer; a system turn that is always there, with a date.
LLAMA_3 = """\
{%- if strftime_now is defined -%}{%- set today = strftime_now('%d %b %Y') -%}
{%- else -%}{%- set today = '26 Jul 2024' -%}{%- endif -%}
{%- if messages[0].role == 'system' -%}
{%- set system = messages[0].content | trim -%}{%- set turns = messages[1:] -%}
{%- else -%}{%- set system = '' -%}{%- set turns = messages -%}{%- endif -%}
{{- bos_token + '<|start_header_id|>system<|end_header_id|>\\n\\n' -}}
{{- 'Known until: December 2023\\nToday: ' + today + '\\n\\n' + system + '<|eot_id|>' -}}
{%- for message in turns -%}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' -}}
{{- message.content | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
{%- endif -%}"""

# Brackets are control tokens with nothing around them; the system message opens the user's; the
# answer begins with a space that no prompt has, and ends with EOS right behind it.
MISTRAL = """\
{%- set lead = namespace(text='') -%}
{{- bos_token -}}
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{%- set lead.text = message.content + '\\n\\n' -%}
{%- elif message.role == 'user' -%}
{{- '[INST] ' + lead.text + message.content + '[/INST]' -}}
{%- set lead.text = '' -%}
{%- else -%}
{{- ' ' + message.content | trim + eos_token -}}
{%- endif -%}
{%- endfor -%}"""


def chatml(default_system: str | None) -> str:
    """<|im_start|>ROLE, the message, <|im_end|> and a line break.

    default_system  of conversations without a system message
    """
    lead = ""
    if default_system is not None:
        lead = (
            "{%- if messages[0].role != 'system' -%}{{- '<|im_start|>system\\n"
            f"{default_system}<|im_end|>\\n' -}}}}{{%- endif -%}}"
        )
    return (
        lead
        + """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""
    )


# The thoughts of an answer are cut from it and, where it is the last one, put back, empty or not. A
# prompt has them only where thinking is switched off.
QWEN_3 = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.role == 'assistant' -%}
{%- set parts = message.content.split('</think>') -%}
{%- set thoughts = parts[0].split('<think>')[-1].strip('\\n') if parts | length > 1 else '' -%}
{%- if loop.last -%}{{- '<think>\\n' + thoughts + '\\n</think>\\n\\n' -}}{%- endif -%}
{{- parts[-1].lstrip('\\n') -}}
{%- else -%}
{{- message.content -}}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- if enable_thinking is defined and not enable_thinking -%}
{{- '<think>\\n\\n</think>\\n\\n' -}}
{%- endif -%}
{%- endif -%}"""

# No role of the system's; the assistant is called model; everything trimmed.
GEMMA_2 = """\
{{- bos_token -}}
{%- if messages[0].role == 'system' -%}{{ raise_exception('no system role here') }}{%- endif -%}
{%- for message in messages -%}
{%- set role = 'model' if message.role == 'assistant' else message.role -%}
{{- '<start_of_turn>' + role + '\\n' + message.content | trim + '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}"""

# The same, but for a system message, which opens the first user turn.
GEMMA_3 = """\
{{- bos_token -}}
{%- if messages[0].role == 'system' -%}
{%- set lead = messages[0].content + '\\n\\n' -%}{%- set turns = messages[1:] -%}
{%- else -%}{%- set lead = '' -%}{%- set turns = messages -%}{%- endif -%}
{%- for message in turns -%}
{%- set role = 'model' if message.role == 'assistant' else message.role -%}
{{- '<start_of_turn>' + role + '\\n' + (lead if loop.first else '') -}}
{{- message.content | trim + '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}"""

# Control tokens that swallow the line break behind them, and EOS behind a whole conversation.
PHI_3 = """\
{%- for message in messages -%}
{{- '<|' + message.role + '|>\\n' + message.content + '<|end|>\\n' -}}
{%- endfor -%}
{{- '<|assistant|>\\n' if add_generation_prompt else eos_token -}}"""

# Roles are no control tokens; the last answer ends with EOS, those before it with a line break too.
OLMO_2 = """\
{{- bos_token -}}
{%- for message in messages -%}
{{- '<|' + message.role + '|>\\n' + message.content -}}
{%- if message.role == 'assistant' -%}
{{- eos_token + ('' if loop.last else '\\n') -}}
{%- else -%}
{{- '\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}"""

# Control tokens around the role's name, a default system turn, EOS ends every turn.
GRANITE = """\
{%- if messages[0].role != 'system' -%}
{{- '<|start_of_role|>system<|end_of_role|>You are a careful assistant.<|end_of_text|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|start_of_role|>' + message.role + '<|end_of_role|>' -}}
{{- message.content + '<|end_of_text|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_of_role|>assistant<|end_of_role|>' -}}{%- endif -%}"""

# A system turn that says how much to think; a switch in the system message turns that off, and then
# prompts and answers have empty thoughts.
SMOLLM_3 = """\
{%- set own = messages[0].content if messages[0].role == 'system' else '' -%}
{%- set turns = messages[1:] if messages[0].role == 'system' else messages -%}
{%- set mode = '/no_think' if '/no_think' in own else '/think' -%}
{%- set empty = '<think>\\n\\n</think>\\n' if mode == '/no_think' else '' -%}
{{- '<|im_start|>system\\n## About\\n\\nMode: ' + mode + '\\n\\n## Orders\\n\\n' -}}
{{- own.replace('/no_think', '').strip() or 'You help whoever asks.' -}}
{{- '\\n\\n<|im_end|>\\n' -}}
{%- for message in turns -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.role == 'assistant' -%}
{{- empty + message.content.lstrip('\\n') -}}
{%- else -%}
{{- message.content -}}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' + empty -}}{%- endif -%}"""

# Two ids before everything; a turn ends where the next role begins, and nothing ends the last one.
GLM_4 = """\
{{- '[gMASK]<sop>' -}}
{%- for message in messages -%}
{{- '<|' + message.role + '|>\\n' + message.content -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}"""

# What the policy thinks aloud is cut from its answers; a prompt opens the thoughts.
DEEPSEEK_R1 = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{{- message.content -}}
{%- elif message.role == 'user' -%}
{{- '<|User|>' + message.content -}}
{%- else -%}
{{- '<|Assistant|>' + message.content.split('</think>')[-1] + eos_token -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|Assistant|><think>\\n' -}}{%- endif -%}"""

# Roles and ends of turns are control tokens with no line break between them; messages are trimmed.
COHERE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- set role = {'system': 'SYSTEM', 'user': 'USER', 'assistant': 'CHATBOT'}[message.role] -%}
{{- '<|START_OF_TURN_TOKEN|><|' + role + '_TOKEN|>' -}}
{{- message.content | trim + '<|END_OF_TURN_TOKEN|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' -}}
{%- endif -%}"""
