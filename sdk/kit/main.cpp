// gantry-plugin-check FILE.so: judges the file as the engine does, loads it and runs the cases of its kind.
// `gantry plugin check` runs this program. It needs no engine and no configuration. With GANTRY_KIT_LINKED
// the driver is part of the program, and there is no file.
#include "kit.h"

#include "core/base/log.h"
#include "core/plugin/load.h"

#include <gantry/error.hpp>

#include <boost/program_options.hpp>

#include <climits>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <unistd.h>

#ifdef GANTRY_KIT_LINKED
extern "C" const struct gantry_plugin_entry gantry_plugin_entry;
#endif

namespace {

namespace options = boost::program_options;
using namespace gantry;

int run(int argc, char **argv) {
    options::options_description shown(
        "gantry-plugin-check [OPTIONS] FILE.so: runs the conformance kit on a driver");
    std::vector<std::string> values;
    std::string file;
    kit::Subject subject;
    kit::Plan plan;
    shown.add_options()("help,h", "this text")("option,o", options::value(&values)->composing(),
                                               "KEY=VALUE of the driver's table in gantry.toml")(
        "junit", options::value(&plan.junit), "write the report as JUnit XML to this file")(
        "reference", options::value(&subject.reference), "an image that a registry driver can reach")(
        "filter,f", options::value(&plan.filter), "only cases whose name contains this")(
        "dir", options::value(&plan.dir)->default_value(plan.dir),
        "cases make their directories here: the file system that the driver is judged on")(
        "limit", options::value(&plan.limit_s), "seconds that a case may take; each has a limit of its own")(
        "list", "names and promises of the cases")("verbose,v", "show what the plugin logs and prints");
    options::options_description all;
    all.add(shown).add_options()("file", options::value(&file));
    options::positional_options_description position;
#ifndef GANTRY_KIT_LINKED
    position.add("file", 1);
#endif
    options::variables_map found;
    options::store(options::command_line_parser(argc, argv).options(all).positional(position).run(), found);
    options::notify(found);
#ifdef GANTRY_KIT_LINKED
    const bool lacks_file = false;
#else
    const bool lacks_file = file.empty();
#endif
    if (found.count("help") || lacks_file) {
        std::cout << shown;
        return found.count("help") ? 0 : 2;
    }
    for (const std::string &value : values) {
        const size_t equals = value.find('=');
        if (equals == value.npos || equals == 0)
            throw Error(ErrorClass::kInvalidArgument, "read --option " + value + ": KEY=VALUE is expected");
        subject.options.emplace_back(value.substr(0, equals), value.substr(equals + 1));
    }
    set_log_level(LogLevel::kError);
#ifdef GANTRY_KIT_LINKED
    subject.entry = &gantry_plugin_entry;
#else
    char resolved[PATH_MAX];
    if (!realpath(file.c_str(), resolved)) throw Error::from_errno(errno, "open plugin " + file);
    subject.file = resolved;
    const ElfFacts facts = judge_plugin_file(subject.file, "");
    subject.entry = &load_entry(subject.file);
    judge_plugin_entry(*subject.entry, facts, subject.file);
#endif
    char place[PATH_MAX];
    if (!realpath(plan.dir.c_str(), place)) throw Error::from_errno(errno, "use --dir " + plan.dir);
    plan.dir = place;
    plan.list = found.count("list");
    plan.verbose = found.count("verbose");
    plan.colour = isatty(1) && !getenv("NO_COLOR");
    return kit::judge(subject, plan);
}

} // namespace

int main(int argc, char **argv) {
    try {
        return run(argc, argv);
    } catch (const options::error &error) {
        fprintf(stderr, "gantry-plugin-check: %s\n", error.what());
    } catch (const Error &error) {
        fprintf(stderr, "gantry-plugin-check: %s\n", error.message().c_str());
        if (!error.hint().empty()) fprintf(stderr, "hint: %s\n", error.hint().c_str());
    } catch (const std::exception &error) {
        fprintf(stderr, "gantry-plugin-check: %s\n", error.what());
    }
    return 2;
}
