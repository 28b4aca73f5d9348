// The subset of Go's text/template that --format needs, evaluated over JSON.
//
// People's scripts carry these templates by the thousand ({{range .NetworkSettings.Networks}}...), so the
// language is kept close: pipelines, variables, if/else/range/with, trim markers and the functions of
// Docker. Left out: defining templates, methods, printf verbs beyond %s %v %q %d %x %f %t.
#pragma once

#include <boost/json/fwd.hpp>

#include <memory>
#include <stdexcept>
#include <string>

namespace gantry::cli {

struct TemplateError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

class Template {
  public:
    /// Throws TemplateError for malformed text.
    explicit Template(const std::string &text);
    ~Template();
    Template(Template &&) noexcept;
    /// Throws TemplateError, e.g. for a field that the data does not have.
    std::string execute(const boost::json::value &data) const;

    struct Node;

  private:
    std::unique_ptr<Node> root_;
};

/// How {{.}} prints a value: Go's %v.
std::string format_value(const boost::json::value &value);

} // namespace gantry::cli
