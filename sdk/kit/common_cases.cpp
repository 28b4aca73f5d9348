// What holds for a driver of any kind: how it presents itself, and how it comes and goes.
#include "bench.h"

#include "core/base/files.h"

#include <cctype>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace gantry::kit {

namespace {

void entry_is_whole(const Subject &subject, const std::string &) {
    const struct gantry_plugin_entry &entry = *subject.entry;
    require(memcmp(entry.magic, GANTRY_PLUGIN_MAGIC, GANTRY_PLUGIN_MAGIC_SIZE) == 0, "the magic is wrong");
    require(entry.abi_major == GANTRY_ABI_MAJOR, "the ABI major is " + std::to_string(entry.abi_major));
    require(entry.name && islower(static_cast<unsigned char>(entry.name[0])) && strlen(entry.name) <= 32,
            "the name is not [a-z][a-z0-9-]{0,31}");
    for (const char *c = entry.name; *c; ++c)
        require(islower(static_cast<unsigned char>(*c)) || isdigit(static_cast<unsigned char>(*c)) ||
                    *c == '-',
                std::string("the name \"") + entry.name + "\" is not [a-z][a-z0-9-]{0,31}");
    require(entry.version && *entry.version, "there is no version");
    require(entry.description && *entry.description && !strchr(entry.description, '\n'),
            "the description is not one line");
    require(entry.homepage, "homepage is NULL; \"\" says that there is none");
    for (uint32_t i = 0; i < entry.ability_count; ++i)
        require(entry.abilities[i].id && strchr(entry.abilities[i].id, '/') && entry.abilities[i].table,
                "ability " + std::to_string(i) + " has no id/revision or no table");
}

void check_options(const gantry_option *options, uint32_t count, const std::string &path, bool element) {
    for (uint32_t i = 0; i < count; ++i) {
        const gantry_option &option = options[i];
        const std::string name = path + (option.name ? option.name : "?");
        require(option.struct_size >= offsetof(gantry_option, shorthand),
                "option " + name + ": struct_size is not set");
        require(option.type >= GANTRY_TYPE_BOOL && option.type <= GANTRY_TYPE_MAP,
                "option " + name + ": no such type");
        if (!element) {
            require(option.name && *option.name, "an option has no name");
            for (const char *c = option.name; *c; ++c)
                require(islower(static_cast<unsigned char>(*c)) || isdigit(static_cast<unsigned char>(*c)) ||
                            *c == '_',
                        "option " + name + ": the name is not snake_case");
            require(option.doc && *option.doc && !strchr(option.doc, '\n'),
                    "option " + name + ": the documentation is not one line");
        }
        if (option.type == GANTRY_TYPE_LIST || option.type == GANTRY_TYPE_MAP) {
            require(option.child_count == 1 && option.children,
                    "option " + name + ": it needs exactly one element");
            check_options(option.children, 1, name + ".", true);
        } else if (option.type == GANTRY_TYPE_TABLE) {
            check_options(option.children, option.child_count, name + ".", false);
        }
    }
}

void options_are_documented(const Subject &subject, const std::string &) {
    check_options(subject.entry->options, subject.entry->option_count, "", false);
}

void comes_and_goes(const Subject &subject, const std::string &dir) {
    Bench bench(subject, dir);
    for (int i = 0; i < 5; ++i)
        bench.reopen();
}

void leaves_the_process_as_it_was(const Subject &subject, const std::string &dir) {
    // A first round loads what stays for good: libraries, name service, a driver's own caches.
    { Bench bench(subject, dir + "/first"); }
    make_directories(dir + "/second", 0755);
    const Footprint before = Footprint::take();
    for (int i = 0; i < 3; ++i) {
        Bench bench(subject, dir + "/second");
        bench.close();
    }
    const std::string left = Footprint::take().changes_since(before);
    require(left.empty(), left);
}

void descriptors_close_on_exec(const Subject &subject, const std::string &dir) {
    const Footprint before = Footprint::take();
    Bench bench(subject, dir);
    for (const auto &[number, what] : Footprint::take().descriptors) {
        if (before.descriptors.contains(number)) continue;
        const int flags = fcntl(number, F_GETFD);
        require(flags < 0 || (flags & FD_CLOEXEC),
                "descriptor " + std::to_string(number) + " (" + what + ") would be inherited by programs");
    }
}

void prints_nothing(const Subject &subject, const std::string &dir) {
    const UniqueFd kept(fcntl(1, F_DUPFD_CLOEXEC, 3)), said(memfd_create("output", MFD_CLOEXEC));
    dup2(said.get(), 1);
    {
        Bench bench(subject, dir);
        bench.close();
    }
    fflush(stdout);
    dup2(kept.get(), 1);
    char text[256] = "";
    const ssize_t size = pread(said.get(), text, sizeof text - 1, 0);
    require(size <= 0, std::string("it wrote to the engine's standard output: ") + text);
}

void two_instances_live_beside_each_other(const Subject &subject, const std::string &dir) {
    make_directories(dir + "/a", 0755);
    make_directories(dir + "/b", 0755);
    Bench a(subject, dir + "/a");
    // In one process a plugin is initialised once: the second engine is a second process.
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) throw Error::from_errno(errno, "make pipe");
    UniqueFd from(ends[0]), to(ends[1]);
    const pid_t child = fork();
    if (child == 0) {
        std::string verdict = "ok";
        try {
            Bench b(subject, dir + "/b");
        } catch (const std::exception &error) {
            verdict = error.what();
        }
        write_all(to.get(), verdict, "verdict");
        _exit(0);
    }
    to.reset();
    const std::string verdict = read_all(from.get(), 65536, "verdict");
    require(verdict == "ok", "a second engine on this host cannot use the driver: " + verdict);
}

void probe_changes_nothing(const Subject &subject, const std::string &dir) {
    const gantry_probe_1 *probe = nullptr;
    for (uint32_t i = 0; i < subject.entry->ability_count; ++i)
        if (strcmp(subject.entry->abilities[i].id, GANTRY_PROBE_1) == 0)
            probe = static_cast<const gantry_probe_1 *>(subject.entry->abilities[i].table);
    if (!probe) throw Skipped("the driver has no " GANTRY_PROBE_1);
    gantry_environment env{};
    env.struct_size = sizeof env;
    const std::string root = dir + "/absent/root", run = dir + "/absent/run";
    env.root = root.c_str();
    env.run = run.c_str();
    env.libexec = "/nonexistent";
    env.engine_id = "probed01";
    const Footprint before = Footprint::take();
    const RecordedCall call;
    const gantry_status status = probe->probe(call.raw(), &env, nullptr);
    call.require_report(status, "probe");
    require(!path_exists(dir + "/absent"), "the probe made a directory");
    const std::string left = Footprint::take().changes_since(before);
    require(left.empty(), "after the probe: " + left);
}

} // namespace

std::vector<Case> common_cases() {
    return {
        {"entry", "the exported entry says what the plugin is", 0, false, entry_is_whole},
        {"options", "every option has a type, a name and one line of documentation", 0, false,
         options_are_documented},
        {"probe", "a probe names the missing prerequisite and changes nothing", 0, false,
         probe_changes_nothing},
        {"life-cycle", "instances can be made and destroyed any number of times", 0, true, comes_and_goes},
        {"leaks", "nothing of an instance stays in the process or the kernel", 0, true,
         leaves_the_process_as_it_was},
        {"close-on-exec", "no descriptor of the driver is inherited by programs", 0, true,
         descriptors_close_on_exec},
        {"silence", "a driver speaks through the host's log alone", 0, true, prints_nothing},
        {"engines", "engines beside each other use the driver at once", 0, true,
         two_instances_live_beside_each_other},
    };
}

} // namespace gantry::kit
