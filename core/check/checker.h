// What the areas of a check share.
#pragma once

#include "core/check/check.h"

#include <gantry/error.hpp>

#include <chrono>
#include <set>
#include <string>
#include <thread>

namespace gantry::check {

struct Checker {
    const CheckParts &parts;
    const CheckOptions options;
    const FindingSink &sink;
    const Call &call;
    CheckSummary sum;

    void notice(const char *area, const std::string &subject, const std::string &text) {
        sink({Finding::Level::kNotice, area, subject, text, ""});
    }
    void problem(const char *area, const std::string &subject, const std::string &text,
                 const std::string &hint = {}) {
        ++sum.problems;
        sink({Finding::Level::kProblem, area, subject, text, hint});
    }
    /// `mend` says what it did, and throws when it could not.
    template <typename Mend>
    void problem(const char *area, const std::string &subject, const std::string &text,
                 const std::string &hint, Mend mend) {
        if (!options.repair)
            return problem(area, subject, text,
                           hint.empty() ? "gantry system check --repair mends it" : hint);
        try {
            const std::string done = mend();
            ++sum.mended;
            sink({Finding::Level::kMended, area, subject, text + "; " + done, ""});
        } catch (const Error &error) {
            problem(area, subject, text + "; not mended: " + error.message(),
                    error.hint().empty() ? hint : error.hint());
        }
    }
};

/// What `look` (a set) shows now and half a second later.
template <typename Look> std::set<std::string> twice(Look look) {
    std::set<std::string> first = look();
    if (first.empty()) return first;
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    const std::set<std::string> second = look();
    std::erase_if(first, [&](const std::string &name) { return !second.contains(name); });
    return first;
}

void check_layers(Checker &c);
void check_content(Checker &c);
void check_containers(Checker &c);
void check_kernel(Checker &c);

} // namespace gantry::check
