// Text to tree: a tokenizer that knows text, actions and trim markers, then recursive descent. Depth is
// bounded, since a template may come from a configuration file of somebody else.
#include "core/cli/template_tree.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <optional>

namespace gantry::cli {

namespace json = boost::json;

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

} // namespace

Template::Node parse_template(const std::string &text) { return TreeParser(tokenize(text)).parse(); }

} // namespace gantry::cli
