// A recursive descent parser into a small tree, and an evaluator. Missing names: a field in capitals that
// the data lacks is an error, as Go says for a struct (it is a typing mistake, and a script must see it),
// in the condition of if and with it is false; a lower case key is a map's and gives "<no value>".
#include "core/cli/template.h"

#include "core/cli/format.h"

#include <boost/json.hpp>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <optional>
#include <vector>

namespace gantry::cli {

namespace json = boost::json;

namespace {

struct Operand {
    enum class Kind { kField, kVariable, kLiteral, kFunction, kPipeline } kind = Kind::kField;
    std::string name;              // variable or function
    std::vector<std::string> path; // of fields behind it
    json::value literal;
    std::unique_ptr<struct Pipeline> pipeline;
};
struct Command {
    std::vector<Operand> operands;
};
struct Pipeline {
    std::vector<std::string> variables; // of "$i, $x :="
    bool assign = false;                // "=" instead of ":="
    std::vector<Command> commands;
};

} // namespace

struct Template::Node {
    enum class Kind { kList, kText, kAction, kIf, kRange, kWith } kind = Kind::kList;
    std::string text;
    Pipeline pipeline;
    std::vector<Node> children, otherwise;
    bool has_otherwise = false;
};

namespace {

using Node = Template::Node;

[[noreturn]] void fail_parse(const std::string &cause) {
    throw TemplateError("template parsing error: template: :1: " + cause);
}

constexpr int kMaxDepth = 100;

bool name_char(char c) { return isalnum(static_cast<unsigned char>(c)) || c == '_'; }

class PipelineParser {
  public:
    explicit PipelineParser(std::string_view text) : text_(text) {}

    Pipeline parse() {
        Pipeline pipeline = parse_pipeline(0);
        skip();
        if (at_ < text_.size())
            fail_parse("unexpected \"" + std::string(text_.substr(at_)) + "\" in command");
        return pipeline;
    }

  private:
    void skip() {
        while (at_ < text_.size() && isspace(static_cast<unsigned char>(text_[at_])))
            ++at_;
    }
    bool take(std::string_view token) {
        if (text_.substr(at_, token.size()) != token) return false;
        at_ += token.size();
        return true;
    }
    std::string name() {
        size_t begin = at_;
        while (at_ < text_.size() && name_char(text_[at_]))
            ++at_;
        return std::string(text_.substr(begin, at_ - begin));
    }

    Pipeline parse_pipeline(int depth) {
        if (depth > kMaxDepth) fail_parse("nested too deeply");
        Pipeline pipeline;
        size_t begin = at_;
        skip();
        // "$a :=", "$a, $b :=" or "$a =": else it was an ordinary operand and is read again.
        std::vector<std::string> names;
        while (take("$")) {
            names.push_back("$" + name());
            skip();
            if (!take(",")) break;
            skip();
        }
        if (!names.empty() && take(":=")) {
            pipeline.variables = std::move(names);
        } else if (!names.empty() && take("=")) {
            pipeline.variables = std::move(names);
            pipeline.assign = true;
        } else {
            at_ = begin;
        }
        do {
            Command command;
            for (;;) {
                skip();
                if (at_ >= text_.size() || text_[at_] == '|' || text_[at_] == ')') break;
                command.operands.push_back(parse_operand(depth));
            }
            if (command.operands.empty()) fail_parse("missing value for command");
            pipeline.commands.push_back(std::move(command));
        } while (take("|"));
        return pipeline;
    }

    void parse_path(Operand &operand) {
        while (at_ < text_.size() && text_[at_] == '.') {
            ++at_;
            std::string field = name();
            if (field.empty()) fail_parse("bad character in a field name");
            operand.path.push_back(std::move(field));
        }
    }

    Operand parse_operand(int depth) {
        Operand operand;
        char c = text_[at_];
        if (c == '.') {
            if (at_ + 1 < text_.size() && name_char(text_[at_ + 1]))
                parse_path(operand);
            else
                ++at_;
        } else if (c == '$') {
            ++at_;
            operand.kind = Operand::Kind::kVariable;
            operand.name = "$" + name();
            parse_path(operand);
        } else if (c == '(') {
            ++at_;
            operand.kind = Operand::Kind::kPipeline;
            operand.pipeline = std::make_unique<Pipeline>(parse_pipeline(depth + 1));
            if (!take(")")) fail_parse("unclosed left paren");
            parse_path(operand);
        } else if (c == '"' || c == '`') {
            operand.kind = Operand::Kind::kLiteral;
            operand.literal = parse_string(c);
        } else if (c == '\'' && at_ + 2 < text_.size() && text_[at_ + 2] == '\'') {
            operand.kind = Operand::Kind::kLiteral;
            operand.literal = static_cast<int64_t>(text_[at_ + 1]);
            at_ += 3;
        } else if (isdigit(static_cast<unsigned char>(c)) || c == '-' || c == '+') {
            operand.kind = Operand::Kind::kLiteral;
            size_t begin = at_++;
            while (at_ < text_.size() && (name_char(text_[at_]) || text_[at_] == '.'))
                ++at_;
            std::string number(text_.substr(begin + (c == '+'), at_ - begin - (c == '+')));
            const char *last = number.data() + number.size();
            int64_t integer = 0;
            double real = 0;
            if (auto r = std::from_chars(number.data(), last, integer); r.ec == std::errc() && r.ptr == last)
                operand.literal = integer;
            else if (auto q = std::from_chars(number.data(), last, real);
                     q.ec == std::errc() && q.ptr == last)
                operand.literal = real;
            else
                fail_parse("bad number syntax: \"" + number + "\"");
        } else if (name_char(c)) {
            std::string word = name();
            operand.kind = Operand::Kind::kLiteral;
            if (word == "true")
                operand.literal = true;
            else if (word == "false")
                operand.literal = false;
            else if (word == "nil")
                operand.literal = nullptr;
            else {
                operand.kind = Operand::Kind::kFunction;
                operand.name = std::move(word);
            }
        } else {
            fail_parse("unexpected \"" + std::string(1, c) + "\" in operand");
        }
        return operand;
    }

    json::value parse_string(char quote) {
        std::string result;
        for (++at_; at_ < text_.size(); ++at_) {
            char c = text_[at_];
            if (c == quote) {
                ++at_;
                return json::value(result);
            }
            if (c == '\\' && quote == '"' && at_ + 1 < text_.size()) {
                c = text_[++at_];
                result += c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c;
            } else {
                result += c;
            }
        }
        fail_parse("unterminated quoted string");
    }

    std::string_view text_;
    size_t at_ = 0;
};

struct Token {
    bool action;
    std::string text;
};

// Where an action ends: "}}" outside of strings.
size_t find_action_end(const std::string &text, size_t at) {
    for (char quote = 0; at < text.size(); ++at) {
        char c = text[at];
        if (quote) {
            if (c == '\\' && quote == '"')
                ++at;
            else if (c == quote)
                quote = 0;
        } else if (c == '"' || c == '`') {
            quote = c;
        } else if (c == '}' && at + 1 < text.size() && text[at + 1] == '}') {
            return at;
        }
    }
    fail_parse("unclosed action");
}

std::vector<Token> tokenize(const std::string &text) {
    std::vector<Token> tokens;
    bool trim_next = false;
    size_t at = 0;
    while (at <= text.size()) {
        size_t open = text.find("{{", at);
        std::string plain = text.substr(at, open == std::string::npos ? open : open - at);
        if (trim_next) plain.erase(0, std::min(plain.find_first_not_of(" \t\r\n"), plain.size()));
        if (open == std::string::npos) {
            tokens.push_back({false, std::move(plain)});
            break;
        }
        size_t begin = open + 2;
        if (text.compare(begin, 1, "-") == 0 && begin + 1 < text.size() &&
            isspace(static_cast<unsigned char>(text[begin + 1]))) {
            plain.erase(plain.find_last_not_of(" \t\r\n") + 1);
            begin += 2;
        }
        tokens.push_back({false, std::move(plain)});
        if (text.compare(begin, 2, "/*") == 0) {
            size_t close = text.find("*/", begin);
            if (close == std::string::npos) fail_parse("unclosed comment");
            begin = close + 2;
        }
        size_t close = find_action_end(text, begin);
        std::string body = text.substr(begin, close - begin);
        trim_next = body.size() > 1 && body.back() == '-' &&
                    isspace(static_cast<unsigned char>(body[body.size() - 2]));
        if (trim_next) body.pop_back();
        body.erase(0, std::min(body.find_first_not_of(" \t\r\n"), body.size()));
        body.erase(body.find_last_not_of(" \t\r\n") + 1);
        if (!body.empty())
            tokens.push_back({true, std::move(body)});
        else if (text.compare(open + 2, 2, "/*") != 0 && text.compare(open + 4, 2, "/*") != 0)
            fail_parse("missing value for command");
        at = close + 2;
    }
    return tokens;
}

class TreeParser {
  public:
    explicit TreeParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

    Node parse() {
        Node root;
        std::string stop = parse_list(root.children, 0);
        if (!stop.empty()) fail_parse("unexpected {{" + stop + "}}");
        return root;
    }

  private:
    // Reads until {{end}} or {{else...}}, which it returns, or "" at the end of the text.
    std::string parse_list(std::vector<Node> &list, int depth) {
        if (depth > kMaxDepth) fail_parse("nested too deeply");
        while (at_ < tokens_.size()) {
            Token token = std::move(tokens_[at_++]);
            if (!token.action) {
                if (!token.text.empty()) {
                    Node node;
                    node.kind = Node::Kind::kText;
                    node.text = std::move(token.text);
                    list.push_back(std::move(node));
                }
                continue;
            }
            size_t word_end = 0;
            while (word_end < token.text.size() && name_char(token.text[word_end]))
                ++word_end;
            std::string word = token.text.substr(0, word_end);
            if (word == "end" || word == "else") return token.text;
            if (word == "if" || word == "range" || word == "with")
                list.push_back(parse_block(word, token.text.substr(word_end), depth));
            else {
                Node node;
                node.kind = Node::Kind::kAction;
                node.pipeline = PipelineParser(token.text).parse();
                list.push_back(std::move(node));
            }
        }
        return {};
    }

    Node parse_block(const std::string &word, std::string_view condition, int depth) {
        Node node;
        node.kind = word == "if" ? Node::Kind::kIf : word == "range" ? Node::Kind::kRange : Node::Kind::kWith;
        node.pipeline = PipelineParser(condition).parse();
        std::string stop = parse_list(node.children, depth + 1);
        if (stop == "else") {
            stop = parse_list(node.otherwise, depth + 1);
        } else if (stop.starts_with("else")) { // {{else if X}} is {{else}}{{if X}}..{{end}} with one end
            size_t begin = stop.find_first_not_of(" \t", 4);
            size_t end = begin;
            while (end < stop.size() && name_char(stop[end]))
                ++end;
            std::string inner = stop.substr(begin, end - begin);
            if (inner != "if" && inner != "with") fail_parse("unexpected {{" + stop + "}}");
            node.otherwise.push_back(parse_block(inner, std::string_view(stop).substr(end), depth + 1));
            return node;
        }
        if (stop != "end") fail_parse(stop.empty() ? "unexpected EOF" : "unexpected {{" + stop + "}}");
        return node;
    }

    std::vector<Token> tokens_;
    size_t at_ = 0;
};

bool truthy(const json::value &value) {
    switch (value.kind()) {
    case json::kind::null: return false;
    case json::kind::bool_: return value.get_bool();
    case json::kind::int64: return value.get_int64() != 0;
    case json::kind::uint64: return value.get_uint64() != 0;
    case json::kind::double_: return value.get_double() != 0;
    case json::kind::string: return !value.get_string().empty();
    case json::kind::array: return !value.get_array().empty();
    case json::kind::object: return !value.get_object().empty();
    }
    return false;
}

std::string text_of(const json::value &value) {
    return value.is_string() ? std::string(value.get_string()) : format_value(value);
}

int64_t integer_of(const json::value &value) {
    if (value.is_int64()) return value.get_int64();
    if (value.is_uint64()) return static_cast<int64_t>(value.get_uint64());
    if (value.is_double() && std::abs(value.get_double()) < 9e18) // beyond, the conversion is undefined
        return static_cast<int64_t>(value.get_double());
    throw TemplateError("template: expected a number, got " + format_value(value));
}

std::string format_printf(const std::vector<json::value> &args) {
    if (args.empty()) throw TemplateError("template: printf needs a format");
    std::string format = text_of(args[0]), result;
    size_t next = 1;
    for (size_t i = 0; i < format.size(); ++i) {
        if (format[i] != '%') {
            result += format[i];
            continue;
        }
        if (i + 1 < format.size() && format[i + 1] == '%') {
            result += '%';
            ++i;
            continue;
        }
        size_t begin = i++;
        while (i < format.size() &&
               (isdigit(static_cast<unsigned char>(format[i])) || strchr("-+ .0#", format[i])))
            ++i;
        if (i >= format.size()) return result + "%!(NOVERB)";
        std::string spec = format.substr(begin, i - begin);
        char verb = format[i];
        if (next >= args.size()) {
            result += std::string("%!") + verb + "(MISSING)";
            continue;
        }
        if (spec.size() > 8) throw TemplateError("template: printf width is too long");
        const json::value &arg = args[next++];
        char buffer[1200]; // width and precision have at most 7 digits together with their flags
        std::string text = text_of(arg);
        if (verb == 'q') text = json::serialize(json::value(text));
        if (verb == 'd' || verb == 'x' || verb == 'X' || verb == 'c' || verb == 'o') {
            std::string conversion = verb == 'c' ? spec + "c" : spec + "ll" + verb;
            if (verb == 'c')
                snprintf(buffer, sizeof buffer, conversion.c_str(), static_cast<int>(integer_of(arg)));
            else
                snprintf(buffer, sizeof buffer, conversion.c_str(), static_cast<long long>(integer_of(arg)));
            result += buffer;
        } else if (verb == 'f' || verb == 'g' || verb == 'e') {
            snprintf(buffer, sizeof buffer, (spec + verb).c_str(),
                     arg.is_double() ? arg.get_double() : static_cast<double>(integer_of(arg)));
            result += buffer;
        } else {
            // Padding by code points, as Go does; a precision cuts.
            std::string flags = spec.substr(1);
            bool left = flags.starts_with("-");
            auto number = [&](size_t from) { // 0 for none and for more than anybody can mean
                size_t value = 0;
                std::from_chars(flags.data() + from, flags.data() + flags.size(), value);
                return value;
            };
            if (size_t dot = flags.find('.'); dot != std::string::npos)
                text = text.substr(0, number(dot + 1));
            size_t pad = number(left ? 1 : 0);
            if (pad >= 1000) pad = 0;
            size_t have = display_width(text);
            pad = pad > have ? pad - have : 0;
            result += left ? text + std::string(pad, ' ') : std::string(pad, ' ') + text;
        }
    }
    return result;
}

int compare(const json::value &a, const json::value &b) {
    if (a.is_string() && b.is_string()) return std::string_view(a.get_string()).compare(b.get_string());
    if (a.is_number() && b.is_number()) {
        double x = a.to_number<double>(), y = b.to_number<double>();
        return x < y ? -1 : x > y;
    }
    throw TemplateError("template: incompatible types for comparison");
}

class Evaluator {
  public:
    explicit Evaluator(const json::value &data) { variables_.emplace_back("$", data); }

    void run(const std::vector<Node> &nodes, const json::value &dot) {
        for (const Node &node : nodes)
            run(node, dot);
    }

    std::string output;

  private:
    void run(const Node &node, const json::value &dot) {
        size_t scope = variables_.size();
        switch (node.kind) {
        case Node::Kind::kText: output += node.text; return;
        case Node::Kind::kList: run(node.children, dot); return;
        case Node::Kind::kAction: {
            json::value value = evaluate(node.pipeline, dot, false);
            if (node.pipeline.variables.empty()) output += text_of(value);
            return; // a variable lives on to the end of the enclosing block
        }
        case Node::Kind::kIf:
        case Node::Kind::kWith: {
            json::value value = evaluate(node.pipeline, dot, true);
            if (truthy(value))
                run(node.children, node.kind == Node::Kind::kWith ? value : dot);
            else
                run(node.otherwise, dot);
            break;
        }
        case Node::Kind::kRange: run_range(node, dot); break;
        }
        variables_.resize(scope, {"", nullptr});
    }

    void run_range(const Node &node, const json::value &dot) {
        Pipeline const &pipeline = node.pipeline;
        json::value value = evaluate_commands(pipeline, dot, true);
        auto once = [&](json::value key, const json::value &element) {
            size_t scope = variables_.size();
            if (pipeline.variables.size() == 2)
                variables_.emplace_back(pipeline.variables[0], std::move(key));
            if (!pipeline.variables.empty()) variables_.emplace_back(pipeline.variables.back(), element);
            run(node.children, element);
            variables_.resize(scope, {"", nullptr});
        };
        if (!truthy(value)) return run(node.otherwise, dot);
        if (value.is_array()) {
            int64_t index = 0;
            for (const json::value &element : value.get_array())
                once(index++, element);
        } else if (value.is_object()) { // in the order of the keys, as Go does
            std::vector<const json::key_value_pair *> pairs;
            for (const auto &pair : value.get_object())
                pairs.push_back(&pair);
            std::sort(pairs.begin(), pairs.end(), [](auto *a, auto *b) { return a->key() < b->key(); });
            for (auto *pair : pairs)
                once(json::value(pair->key()), pair->value());
        } else {
            throw TemplateError("template: range can't iterate over " + format_value(value));
        }
    }

    json::value evaluate(const Pipeline &pipeline, const json::value &dot, bool lenient) {
        json::value value = evaluate_commands(pipeline, dot, lenient);
        for (const std::string &name : pipeline.variables) {
            if (pipeline.assign)
                lookup(name) = value;
            else
                variables_.emplace_back(name, value);
        }
        return value;
    }

    json::value evaluate_commands(const Pipeline &pipeline, const json::value &dot, bool lenient) {
        json::value value;
        bool piped = false;
        for (const Command &command : pipeline.commands) {
            const Operand &first = command.operands[0];
            if (first.kind == Operand::Kind::kFunction) {
                // `and` and `or` guard what they test, so their operands may be absent.
                bool soft = lenient || first.name == "and" || first.name == "or" || first.name == "not";
                std::vector<json::value> args;
                for (size_t i = 1; i < command.operands.size(); ++i)
                    args.push_back(evaluate(command.operands[i], dot, soft));
                if (piped) args.push_back(std::move(value));
                value = call(first.name, args);
            } else {
                if (command.operands.size() > 1 || piped)
                    throw TemplateError("template: can't give argument to non-function " + first.name);
                value = evaluate(first, dot, lenient);
            }
            piped = true;
        }
        return value;
    }

    json::value evaluate(const Operand &operand, const json::value &dot, bool lenient) {
        json::value base;
        switch (operand.kind) {
        case Operand::Kind::kLiteral: return operand.literal;
        case Operand::Kind::kFunction: return call(operand.name, {});
        case Operand::Kind::kField: return follow(dot, operand.path, lenient);
        case Operand::Kind::kVariable: return follow(lookup(operand.name), operand.path, lenient);
        case Operand::Kind::kPipeline:
            base = evaluate_commands(*operand.pipeline, dot, lenient);
            return follow(base, operand.path, lenient);
        }
        return base;
    }

    json::value follow(const json::value &base, const std::vector<std::string> &path, bool lenient) {
        const json::value *at = &base;
        for (const std::string &field : path) {
            const json::value *next = at->is_object() ? at->get_object().if_contains(field) : nullptr;
            if (!next) {
                bool map_key = islower(static_cast<unsigned char>(field[0])) && at->is_object();
                if (lenient || map_key) return nullptr;
                throw TemplateError("template parsing error: template: :1: executing \"\" at <." + field +
                                    ">: " +
                                    (at->is_object() ? "map has no entry for key \"" + field + "\""
                                     : at->is_null() ? "nil data; no entry for key \"" + field + "\""
                                                     : "can't evaluate field " + field));
            }
            at = next;
        }
        return *at;
    }

    json::value &lookup(const std::string &name) {
        for (size_t i = variables_.size(); i-- > 0;)
            if (variables_[i].first == name) return variables_[i].second;
        throw TemplateError("template parsing error: template: :1: undefined variable \"" + name + "\"");
    }

    static json::value call(const std::string &name, const std::vector<json::value> &args);

    std::vector<std::pair<std::string, json::value>> variables_;
};

json::value index_value(const std::vector<json::value> &args) {
    const json::value *at = &args.at(0);
    for (size_t i = 1; i < args.size(); ++i) {
        if (at->is_object()) {
            at = at->get_object().if_contains(text_of(args[i]));
            if (!at) return json::value(""); // the zero value of a map of strings
        } else if (at->is_array()) {
            int64_t position = integer_of(args[i]);
            if (position < 0 || static_cast<size_t>(position) >= at->get_array().size())
                throw TemplateError("template: error calling index: index out of range: " +
                                    std::to_string(position));
            at = &at->get_array()[static_cast<size_t>(position)];
        } else if (at->is_null()) {
            return nullptr;
        } else {
            throw TemplateError("template: error calling index: can't index item of type string");
        }
    }
    return *at;
}

json::value Evaluator::call(const std::string &name, const std::vector<json::value> &args) {
    auto need = [&](size_t least, size_t most) {
        if (args.size() < least || args.size() > most)
            throw TemplateError("template: wrong number of args for " + name + ": got " +
                                std::to_string(args.size()));
    };
    constexpr size_t kAny = 1000;
    if (name == "json") {
        need(1, 1);
        return json::value(json::serialize(args[0]));
    }
    if (name == "upper" || name == "lower" || name == "title") {
        need(1, 1);
        std::string text = text_of(args[0]);
        for (size_t i = 0; i < text.size(); ++i) {
            auto c = static_cast<unsigned char>(text[i]);
            bool start = i == 0 || text[i - 1] == ' ';
            if (name == "upper" || (name == "title" && start))
                text[i] = static_cast<char>(toupper(c));
            else if (name == "lower")
                text[i] = static_cast<char>(tolower(c));
        }
        return json::value(text);
    }
    if (name == "join") {
        need(2, 2);
        std::string text;
        if (!args[0].is_array() && !args[0].is_null()) throw TemplateError("template: join needs a list");
        if (args[0].is_array())
            for (const json::value &element : args[0].get_array())
                text += (&element == args[0].get_array().begin() ? "" : text_of(args[1])) + text_of(element);
        return json::value(text);
    }
    if (name == "split") {
        need(2, 2);
        std::string text = text_of(args[0]), separator = text_of(args[1]);
        json::array parts;
        for (size_t at = 0;;) {
            size_t end = separator.empty() ? (at + 1 < text.size() ? at + 1 : std::string::npos)
                                           : text.find(separator, at);
            parts.emplace_back(text.substr(at, end == std::string::npos ? end : end - at));
            if (end == std::string::npos) return parts;
            at = end + separator.size();
        }
    }
    if (name == "truncate") {
        need(2, 2);
        return json::value(
            text_of(args[0]).substr(0, static_cast<size_t>(std::max<int64_t>(0, integer_of(args[1])))));
    }
    if (name == "pad") {
        need(3, 3);
        auto blanks = [&](size_t i) {
            return std::string(static_cast<size_t>(std::clamp<int64_t>(integer_of(args[i]), 0, 1000)), ' ');
        };
        return json::value(blanks(1) + text_of(args[0]) + blanks(2));
    }
    if (name == "len") {
        need(1, 1);
        const json::value &value = args[0];
        if (value.is_null()) return 0;
        if (value.is_string()) return static_cast<int64_t>(value.get_string().size());
        if (value.is_array()) return static_cast<int64_t>(value.get_array().size());
        if (value.is_object()) return static_cast<int64_t>(value.get_object().size());
        throw TemplateError("template: error calling len: len of type number");
    }
    if (name == "index") {
        need(1, kAny);
        return index_value(args);
    }
    if (name == "slice") {
        need(1, 3);
        std::string text = text_of(args[0]);
        int64_t begin = args.size() > 1 ? integer_of(args[1]) : 0;
        int64_t end = args.size() > 2 ? integer_of(args[2]) : static_cast<int64_t>(text.size());
        if (begin < 0 || end < begin || end > static_cast<int64_t>(text.size()))
            throw TemplateError("template: error calling slice: index out of range");
        return json::value(text.substr(static_cast<size_t>(begin), static_cast<size_t>(end - begin)));
    }
    if (name == "print" || name == "println") {
        std::string text;
        for (size_t i = 0; i < args.size(); ++i) {
            bool blank = i > 0 && (name == "println" || (!args[i].is_string() && !args[i - 1].is_string()));
            text += (blank ? " " : "") + text_of(args[i]);
        }
        return json::value(name == "println" ? text + "\n" : text);
    }
    if (name == "printf") return json::value(format_printf(args));
    if (name == "not") {
        need(1, 1);
        return !truthy(args[0]);
    }
    if (name == "and" || name == "or") {
        need(1, kAny);
        for (const json::value &arg : args)
            if (truthy(arg) == (name == "or")) return arg;
        return args.back();
    }
    if (name == "eq") {
        need(2, kAny);
        for (size_t i = 1; i < args.size(); ++i)
            if (args[0] == args[i]) return true;
        return false;
    }
    if (name == "ne") {
        need(2, 2);
        return args[0] != args[1];
    }
    if (name == "lt" || name == "le" || name == "gt" || name == "ge") {
        need(2, 2);
        int order = compare(args[0], args[1]);
        return name == "lt" ? order < 0 : name == "le" ? order <= 0 : name == "gt" ? order > 0 : order >= 0;
    }
    throw TemplateError("template parsing error: template: :1: function \"" + name + "\" not defined");
}

} // namespace

Template::Template(const std::string &text)
    : root_(std::make_unique<Node>(TreeParser(tokenize(text)).parse())) {}
Template::~Template() = default;
Template::Template(Template &&) noexcept = default;

std::string Template::execute(const json::value &data) const {
    Evaluator evaluator(data);
    evaluator.run(root_->children, data);
    return std::move(evaluator.output);
}

std::string format_value(const json::value &value) {
    switch (value.kind()) {
    case json::kind::null: return "<no value>";
    case json::kind::bool_: return value.get_bool() ? "true" : "false";
    case json::kind::string: return std::string(value.get_string());
    case json::kind::double_: {
        char text[64];
        snprintf(text, sizeof text, "%.17g", value.get_double());
        // The shortest form that reads back the same.
        for (int precision = 1; precision < 17; ++precision) {
            char attempt[64];
            snprintf(attempt, sizeof attempt, "%.*g", precision, value.get_double());
            if (strtod(attempt, nullptr) == value.get_double()) return attempt;
        }
        return text;
    }
    case json::kind::array: {
        std::string text = "[";
        for (const json::value &element : value.get_array())
            text += (text.size() > 1 ? " " : "") + format_value(element);
        return text + "]";
    }
    case json::kind::object: {
        std::vector<std::string> parts;
        for (const auto &pair : value.get_object())
            parts.push_back(std::string(pair.key()) + ":" + format_value(pair.value()));
        std::sort(parts.begin(), parts.end());
        std::string text = "map[";
        for (const std::string &part : parts)
            text += (text.size() > 4 ? " " : "") + part;
        return text + "]";
    }
    default: return json::serialize(value);
    }
}

} // namespace gantry::cli
