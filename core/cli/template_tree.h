// What the parser of --format templates hands to the evaluator: a tree of literal text and actions.
#pragma once

#include "core/cli/template.h"

#include <boost/json.hpp>

#include <memory>
#include <string>
#include <vector>

namespace gantry::cli {

struct Operand {
    enum class Kind { kField, kVariable, kLiteral, kFunction, kPipeline } kind = Kind::kField;
    std::string name;              // variable or function
    std::vector<std::string> path; // of fields behind it
    boost::json::value literal;
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

struct Template::Node {
    enum class Kind { kList, kText, kAction, kIf, kRange, kWith } kind = Kind::kList;
    std::string text;
    Pipeline pipeline;
    std::vector<Node> children, otherwise;
    bool has_otherwise = false;
};

/// Throws TemplateError. The root is a list.
Template::Node parse_template(const std::string &text);

} // namespace gantry::cli
