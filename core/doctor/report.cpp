// Puts the examinations in order and prints what they found, for people and for programs.
#include "core/doctor/doctor.h"

#include "core/base/log.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <unistd.h>

namespace gantry::doctor {

namespace {

const char *colour_of(Verdict verdict) {
    switch (verdict) {
    case Verdict::kOk: return "\033[32m";
    case Verdict::kNotice: return "\033[36m";
    case Verdict::kWarning: return "\033[33m";
    case Verdict::kError: return "\033[1;31m";
    }
    return "";
}

size_t count(const Findings &findings, Verdict verdict) {
    return size_t(std::count_if(findings.begin(), findings.end(),
                                [&](const Finding &finding) { return finding.verdict == verdict; }));
}

struct Request {
    std::string config, format = "text";
};

Request parse(const std::vector<std::string> &args) {
    Request request;
    for (size_t i = 0; i < args.size(); i += 2) {
        if (i + 1 == args.size() || (args[i] != "--config" && args[i] != "--format"))
            throw Error(ErrorClass::kInvalidArgument, "read arguments of doctor: unexpected " + args[i],
                        "use --config FILE and --format text|json");
        (args[i] == "--config" ? request.config : request.format) = args[i + 1];
    }
    if (request.format != "text" && request.format != "json")
        throw Error(ErrorClass::kInvalidArgument, "print report: unknown format \"" + request.format + "\"",
                    "use text or json");
    return request;
}

} // namespace

const char *word_of(Verdict verdict) {
    switch (verdict) {
    case Verdict::kOk: return "ok";
    case Verdict::kNotice: return "notice";
    case Verdict::kWarning: return "warning";
    case Verdict::kError: return "error";
    }
    return "";
}

std::string as_text(const Findings &findings, bool colour) {
    size_t width = 0;
    for (const Finding &finding : findings)
        width = std::max(width, finding.subject.size());
    width = std::min<size_t>(width, 34);
    std::string text, area;
    for (const Finding &finding : findings) {
        if (finding.area != area) {
            if (!text.empty()) text += '\n';
            text += (colour ? "\033[1m" : "") + finding.area + (colour ? "\033[0m" : "") + "\n";
            area = finding.area;
        }
        std::string verdict = word_of(finding.verdict);
        verdict.resize(8, ' ');
        std::string subject = finding.subject;
        if (subject.size() < width) subject.resize(width, ' ');
        text += "  " + (colour ? colour_of(finding.verdict) + verdict + "\033[0m" : verdict) + subject +
                "  " + finding.found + "\n";
        if (!finding.remedy.empty())
            text += "  " + std::string(8 + width + 2, ' ') + "-> " + finding.remedy + "\n";
    }
    const size_t errors = count(findings, Verdict::kError), warnings = count(findings, Verdict::kWarning);
    text += "\n" + std::to_string(findings.size()) + " checks: " + std::to_string(errors) + " errors, " +
            std::to_string(warnings) + " warnings, " + std::to_string(count(findings, Verdict::kNotice)) +
            " notices\n";
    return text;
}

std::string as_json(const Findings &findings) {
    boost::json::array list;
    for (const Finding &finding : findings)
        list.push_back({{"area", finding.area},
                        {"subject", finding.subject},
                        {"verdict", word_of(finding.verdict)},
                        {"found", finding.found},
                        {"remedy", finding.remedy}});
    return boost::json::serialize(boost::json::object{{"ok", count(findings, Verdict::kError) == 0},
                                                      {"findings", std::move(list)}}) +
           "\n";
}

int run(const std::vector<std::string> &args) {
    try {
        const Request request = parse(args);
        set_log_level(LogLevel::kError); // what the host warns about is in the findings
        // What the engine is asked to be decides what the machine is asked for, so it comes first and is
        // shown last, where the eye rests.
        Findings engine, findings;
        const EngineFacts facts = examine_engine(request.config, engine);
        examine_kernel(findings);
        examine_cgroups(facts.cgroup_parent, findings);
        examine_files(facts.root, findings);
        examine_network(facts.network, findings);
        findings.insert(findings.end(), engine.begin(), engine.end());
        const bool colour = isatty(1) && !getenv("NO_COLOR");
        fputs((request.format == "json" ? as_json(findings) : as_text(findings, colour)).c_str(), stdout);
        return count(findings, Verdict::kError) ? 1 : 0;
    } catch (const Error &error) {
        fprintf(stderr, "doctor: %s\n", error.message().c_str());
        if (!error.hint().empty()) fprintf(stderr, "hint: %s\n", error.hint().c_str());
    } catch (const std::exception &error) {
        fprintf(stderr, "doctor: internal error: %s\n", error.what());
    }
    return 1;
}

} // namespace gantry::doctor
