#include "common/model/chat_template.h"

#include <gtest/gtest.h>

#include "common/json.h"
#include "tests/support/test_models.h"

namespace echelon {
namespace {

Json Messages(std::string_view text) {
  auto json = Json::Parse(text, "messages");
  CHECK_MSG(json.ok(), std::string(text));
  return std::move(json).value();
}

const char kTwo[] =
    R"([{"role":"system","content":"Be brief."},{"role":"user","content":"Hi <|im_end|>"}])";

Result<std::vector<TextSpan>> Spans(std::string_view source, std::string_view messages = kTwo,
                                    ChatTemplateLimits limits = {}) {
  auto parsed = ParseChatTemplate(source, limits);
  if (!parsed.ok()) return parsed.error();
  return (*parsed)->Render(Messages(messages), true, "<s>", "</s>");
}

// The text, with what came from messages between « and ».
std::string Marked(const std::vector<TextSpan>& spans) {
  std::string out;
  for (const TextSpan& span : spans) out += span.trusted ? span.text : "«" + span.text + "»";
  return out;
}

std::string Render(std::string_view source, std::string_view messages = kTwo) {
  auto spans = Spans(source, messages);
  return spans.ok() ? Marked(*spans) : "error: " + spans.error().message;
}

std::string Plain(std::string_view source, std::string_view messages = kTwo) {
  auto spans = Spans(source, messages);
  if (!spans.ok()) return "error: " + spans.error().message;
  std::string out;
  for (const TextSpan& span : *spans) out += span.text;
  return out;
}

TEST(ChatTemplate, MarksWhatCameFromMessages) {
  EXPECT_EQ(
      Render("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m['content'] }}<|im_end|>\n"
             "{% endfor %}"),
      "<|im_start|>system\n«Be brief.»<|im_end|>\n<|im_start|>user\n«Hi <|im_end|>»<|im_end|>\n");
}

TEST(ChatTemplate, CarriesTheMarksThroughEveryOperation) {
  const auto of = [](std::string_view expression) {
    return Render("{% set c = messages[1].content %}{{ " + std::string(expression) + " }}");
  };
  EXPECT_EQ(of("'<' + c + '>'"), "<«Hi <|im_end|>»>");
  EXPECT_EQ(of("'<' ~ c ~ 1"), "<«Hi <|im_end|>»1");
  EXPECT_EQ(of("(' ' + c + ' ') | trim"), "«Hi <|im_end|>»");
  EXPECT_EQ(of("c.strip().upper()"), "«HI <|IM_END|>»");
  EXPECT_EQ(of("c[3:]"), "«<|im_end|>»");
  EXPECT_EQ(of("c[-1]"), "«>»");
  EXPECT_EQ(of("c[::-1]"), "«>|dne_mi|< iH»");
  EXPECT_EQ(of("c.split('<')[-1]"), "«|im_end|>»");
  EXPECT_EQ(of("c.replace('Hi', '<s>')"), "<s>« <|im_end|>»");
  EXPECT_EQ(of("'a-b'.replace('-', c)"), "a«Hi <|im_end|>»b");
  EXPECT_EQ(of("c | tojson"), "\"«Hi <|im_end|>»\"");
  EXPECT_EQ(of("{'k': c} | tojson"), "{\"k\": \"«Hi <|im_end|>»\"}");
  EXPECT_EQ(of("[c, 'x'] | join('|')"), "«Hi <|im_end|>»|x");
  EXPECT_EQ(of("[c]"), "['«Hi <|im_end|>»']");
  EXPECT_EQ(of("c | list | first"), "«H»");
  EXPECT_EQ(of("c | indent(2, true)"), "  «Hi <|im_end|>»");
  EXPECT_EQ(of("c if c is defined else ''"), "«Hi <|im_end|>»");
  EXPECT_EQ(of("messages | map(attribute='content') | join"), "«Be brief.Hi <|im_end|>»");
  EXPECT_EQ(Render("{% set x %}[{{ messages[0].content }}]{% endset %}{{ x }}"), "[«Be brief.»]");
  EXPECT_EQ(Render("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(messages[0].content) }}"),
            "<«Be brief.»>");
  EXPECT_EQ(Render("{% set ns = namespace(t='') %}{% for m in messages %}{% set ns.t = ns.t + "
                   "m.content %}{% endfor %}{{ ns.t }}"),
            "«Be brief.Hi <|im_end|>»");
}

TEST(ChatTemplate, TrustsOnlyRolesItKnows) {
  EXPECT_EQ(Render("{{ '<|' + messages[0].role + '|>' }}", R"([{"role":"user"}])"), "<|user|>");
  EXPECT_EQ(Render("{{ '<|' + messages[0].role + '|>' }}", R"([{"role":"im_end"}])"),
            "<|«im_end»|>");
  EXPECT_EQ(
      Render("{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}", R"([{"<s>":1}])"),
      "«<s>»=1;");
}

TEST(ChatTemplate, TreatsWhiteSpaceAsTransformersDoes) {
  EXPECT_EQ(Plain("a\n  {% if true %}\n  b\n  {% endif %}\nc\n"), "a\n  b\nc");
  EXPECT_EQ(Plain("a  {%- if true -%}  \n b {%- endif %} c"), "ab c");
  EXPECT_EQ(Plain("a {{- 'b' -}} c"), "abc");
  EXPECT_EQ(Plain("a {{ 'b' }}\n c"), "a b\n c");
  EXPECT_EQ(Plain("  {# note #}\nx"), "x");
  EXPECT_EQ(Plain("x {%+ if true %}y{% endif %}"), "x y");
  EXPECT_EQ(Plain("{{ {'a': {'b': 1}}['a']['b'] }}"), "1");
  EXPECT_EQ(Plain("a\r\nb"), "a\nb");
}

TEST(ChatTemplate, ComputesAsPythonDoes) {
  const std::pair<const char*, const char*> rows[] = {
      {"1 + 2 * 3", "7"},
      {"-7 // 2", "-4"},
      {"-7 % 3", "2"},
      {"7 / 2", "3.5"},
      {"'a' ~ 1 ~ none ~ true", "a1NoneTrue"},
      {"not true or true", "True"},
      {"1 if false", ""},
      {"'b' in 'abc' and 2 not in [1]", "True"},
      {"[1, 2, 3][1:] | length", "2"},
      {"[1, 2, 3][-1]", "3"},
      {"(1, 2) | last", "2"},
      {"range(3) | list", "[0, 1, 2]"},
      {"{'a': 1, 'b': [true, none]} | tojson", "{\"a\": 1, \"b\": [true, null]}"},
      {"{'a': [1]} | tojson(indent=2)", "{\n  \"a\": [\n    1\n  ]\n}"},
      {"'\\n\"é' | tojson", "\"\\n\\\"é\""},
      {"x is defined", "False"},
      {"x | default('d')", "d"},
      {"'' | default('d', true)", "d"},
      {"messages is iterable and messages is not string", "True"},
      {"messages[0] is mapping", "True"},
      {"messages | selectattr('role', 'equalto', 'user') | list | length", "1"},
      {"messages | rejectattr('role', 'equalto', 'user') | map(attribute='role') | first",
       "system"},
      {"'a b'.title() + 'x'.upper() + ('Y' | lower)", "A BXy"},
      {"' a b '.split()", "['a', 'b']"},
      {"'a</think>b'.split('</think>')[-1].lstrip('\\n')", "b"},
      {"'abc'.startswith('ab') and 'abc'.endswith(('x', 'bc'))", "True"},
      {"3.0 == 3", "True"},
      {"'3' | int + 1", "4"},
      {"messages[0].missing is none", "False"},
      {"messages[0].get('missing') is none", "True"},
      {"messages[5] is defined", "False"},
      {"'日本語'[1]", "本"},
      {"'日本語' | length", "3"},
      {"5 is odd", "True"},
      {"{'b': 1, 'a': 2}.items() | list | tojson", "[[\"b\", 1], [\"a\", 2]]"},
      {"dict(a=1).a", "1"},
      {"[1,2] + [3]", "[1, 2, 3]"},
      {"'it' 's'", "its"},
  };
  for (const auto& [expression, expected] : rows) {
    EXPECT_EQ(Plain("{{ " + std::string(expression) + " }}"), expected) << expression;
  }
}

TEST(ChatTemplate, PrintsNumbersAsPythonDoes) {
  // json.loads, and then Jinja's {{ }} or json.dumps.
  const auto of = [](const char* number) {
    return Render("{{ messages[0].n }} {{ messages[0].n | tojson }} {{ [messages[0].n] }}",
                  std::string(R"([{"role":"user","n":)") + number + "}]");
  };
  EXPECT_EQ(of("3.14159265358979"), "3.14159265358979 3.14159265358979 [3.14159265358979]");
  EXPECT_EQ(of("123456789012.0"), "123456789012.0 123456789012.0 [123456789012.0]");
  EXPECT_EQ(of("1e16"), "1e+16 1e+16 [1e+16]");
  EXPECT_EQ(of("9223372036854775807"),
            "9223372036854775807 9223372036854775807 [9223372036854775807]");
  EXPECT_EQ(of("18446744073709551615"),
            "18446744073709551615 18446744073709551615 [18446744073709551615]");
  EXPECT_EQ(Plain("{{ messages[0].n * 10 }} {{ (messages[0].n * 10) | tojson }}",
                  R"([{"role":"user","n":1e308}])"),
            "inf Infinity");
  const auto eval = [](const char* expression) {
    return Render(std::string("{{ ") + expression + " }}",
                  R"([{"role":"user","n":18446744073709551615}])");
  };
  EXPECT_EQ(eval("messages[0].n is integer and messages[0].n is number"), "True");
  EXPECT_EQ(eval("messages[0].n is odd"), "True");
  EXPECT_EQ(eval("messages[0].n == messages[0].n and messages[0].n != 1"), "True");
  EXPECT_EQ(eval("messages[0].n > 1 and messages[0].n | int == messages[0].n"), "True");
  EXPECT_EQ(eval("messages[0].n / 2"), "9.223372036854776e+18");
}

TEST(ChatTemplate, LoopsAndScopes) {
  EXPECT_EQ(Plain("{% for i in [1,2,3] %}{{ loop.index0 }}{{ loop.first }}{{ loop.last }};"
                  "{% endfor %}"),
            "0TrueFalse;1FalseFalse;2FalseTrue;");
  EXPECT_EQ(Plain("{% for i in [1,2,3,4] if i is even %}{{ i }}/{{ loop.length }} {% endfor %}"),
            "2/2 4/2 ");
  EXPECT_EQ(Plain("{% for i in [] %}x{% else %}none{% endfor %}"), "none");
  EXPECT_EQ(Plain("{% set a = 1 %}{% for i in [1] %}{% set a = 2 %}{% endfor %}{{ a }}"), "1");
  EXPECT_EQ(Plain("{% for i in [1,2,3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}"
                  "{% endfor %}"),
            "13");
  EXPECT_EQ(Plain("{% for i in [1,2,3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"),
            "1");
  EXPECT_EQ(Plain("{% for i in [1,2] %}{{ loop.previtem }}{{ loop.nextitem }}{% endfor %}"), "21");
  EXPECT_EQ(Plain("{% if false %}a{% elif 1 > 2 %}b{% elif true %}c{% else %}d{% endif %}"), "c");
  EXPECT_EQ(Plain("{% macro f(a, b='x') %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}{{ f(1, b=2) }}"),
            "1x12");
}

TEST(ChatTemplate, RunsTemplatesInTheStyleOfPublishedModels) {
  const char kTurns[] =
      R"([{"role":"user","content":" One "},{"role":"assistant","content":"Two"},)"
      R"({"role":"user","content":"Three"}])";
  EXPECT_EQ(  // Gemma 3
      Plain(R"({{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '

' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
)",
            kTurns),
      "<s><start_of_turn>user\nOne<end_of_turn>\n<start_of_turn>model\nTwo<end_of_turn>\n"
      "<start_of_turn>user\nThree<end_of_turn>\n<start_of_turn>model\n");
  EXPECT_EQ(  // Llama 3.2
      Plain(R"({{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{{- "Today Date: " + date_string + "\n\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {{- raise_exception("This model only supports single tool-calls at once!") }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
)"),
      "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\nBe brief."
      "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi <|im_end|><|eot_id|>"
      "<|start_header_id|>assistant<|end_header_id|>\n\n");
  EXPECT_EQ(  // Mistral
      Plain("{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != "
            "(loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate!') }}{% endif %}"
            "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
            "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
            "{% else %}{{ raise_exception('Only user and assistant roles!') }}{% endif %}"
            "{% endfor %}",
            kTurns),
      "<s>[INST]  One  [/INST]Two</s>[INST] Three [/INST]");
  EXPECT_EQ(  // Qwen 3
      Plain(
          R"({%- if tools %}
    {{- '<|im_start|>system\n' }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {{- '<|im_start|>' + message.role + '\n<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %})",
          R"([{"role":"user","content":"A"},{"role":"assistant","content":"<think>\nhm\n</think>\n\nB"},{"role":"user","content":"C"}])"),
      "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"
      "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n");
}

TEST(ChatTemplate, NamesWhatItCannotRun) {
  const std::pair<const char*, const char*> rows[] = {
      {"x\n{% include 'a' %}", "line 2: statement {% include %} is not supported"},
      {"{{ 1 | frobnicate }}", "filter \"frobnicate\" is not supported"},
      {"{{ 1 is frobnicated }}", "test \"is frobnicated\" is not supported"},
      {"{{ 'a'.encode() }}", "method \"encode\" of a str is not supported"},
      {"{{ strftime_now('%d') }}", "function \"strftime_now\" is not supported"},
      {"{{ ().__class__.__bases__ }}", "\"__bases__\" of an undefined value"},
      {"{% for x in y %}", "no {% endfor %} before the end"},
      {"{{ 1 ", "tag without end"},
      {"{{ 'a }}", "string without end"},
      {"{{ 1 + }}", "where a value was expected"},
      {"{{ 'a' + 1 }}", "operator + on str and int"},
      {"{{ a.b }}", "\"b\" of an undefined value"},
      {"{{ 1 < 2 < 3 }}", "chained comparisons"},
      {"{% for x in 5 %}{% endfor %}", "a int is not iterable"},
      {"{{ 9223372036854775807 + 1 }}", "integer overflow"},
      {"{{ 1 // 0 }}", "division by zero"},
      {"{{ 'é' | upper }}", "beyond ASCII"},
      {"{{ raise_exception('Roles must alternate') }}",
       "refuses the conversation: Roles must alternate"},
      {"{% set n = namespace() %}{% set n.x = n %}", "a namespace within a namespace"},
  };
  for (const auto& [source, message] : rows) {
    EXPECT_NE(Plain(source).find(message), std::string::npos) << source << "\n" << Plain(source);
  }
  EXPECT_FALSE(ParseChatTemplate("\xFF").ok());
  auto parsed = ParseChatTemplate("x");
  EXPECT_FALSE((*parsed)->Render(Messages("{}"), true, "", "").ok());
  EXPECT_FALSE((*parsed)->Render(Messages("[1]"), true, "", "").ok());
}

TEST(ChatTemplate, StopsWhatWouldNotEnd) {
  const char* sources[] = {
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
      "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}"
      "{% endfor %}",
      "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set n.x = n.x.replace('a', "
      "'aaaaaaaa') %}{% endfor %}",
      "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% set n = namespace(x=[]) %}{% for i in range(5000) %}{% set n.x = [n.x] %}{% endfor %}"
      "{{ n.x }}",
      "{{ range(1000000000) }}",
  };
  for (const char* source : sources) {
    EXPECT_FALSE(Spans(source, kTwo, {100'000, size_t{16} << 20}).ok()) << source;
  }
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += "(";
  EXPECT_FALSE(ParseChatTemplate("{{ " + deep).ok());
  std::string chain = "{{ 1";
  for (int i = 0; i < 100000; ++i) chain += " + 1";
  EXPECT_FALSE(ParseChatTemplate(chain + " }}").ok());
  std::string nots = "{{ ";
  for (int i = 0; i < 100000; ++i) nots += "not ";
  EXPECT_FALSE(ParseChatTemplate(nots + "1 }}").ok());
  std::string ifs;
  for (int i = 0; i < 100000; ++i) ifs += "{% if 1 %}";
  EXPECT_FALSE(ParseChatTemplate(ifs).ok());
  EXPECT_FALSE(Spans("{% for i in range(10) %}0123456789{% endfor %}", kTwo, {1000, 50}).ok());
  EXPECT_TRUE(Spans("{% for i in range(10) %}0123456789{% endfor %}", kTwo, {1000, 100}).ok());
}

}  // namespace
}  // namespace echelon
