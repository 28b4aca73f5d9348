// A storage driver's mount options as the two mount interfaces take them, for the engine and for the shim,
// which has neither heap nor exceptions. The new interface (fsconfig) takes one setting at a time; for
// overlay that is one "lowerdir+" per layer. The classic one takes a page of text: there the layers are
// named relative to the directory that they share, which brings 500 of them into 4096 bytes, and what
// aufs would append beyond the page follows in remounts.
#pragma once

#include <cstddef>
#include <cstring>

namespace gantry::mount_options {

inline constexpr size_t kPage = 4096; // including the final 0; also the limit of a path

inline bool starts(const char *text, const char *prefix) {
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

/// Calls `use(name)` for the lower directories that an option names, without their backslashes:
/// "lowerdir+=NAME" is one as it stands, "lowerdir=A:B" a list. Other options name none.
template <typename Use> void each_lower(const char *option, Use use) {
    static thread_local char name[kPage];
    if (starts(option, "lowerdir+=")) return use(option + 10);
    if (!starts(option, "lowerdir=")) return;
    for (const char *p = option + 9; *p;) {
        size_t n = 0;
        for (; *p && *p != ':'; p++) {
            if (*p == '\\' && p[1]) p++;
            if (n < kPage - 1) name[n++] = *p;
        }
        name[n] = 0;
        use(static_cast<const char *>(name));
        if (*p == ':') p++;
    }
}

/// Calls `set(key, value)` for one option as fsconfig wants it; a null value is a flag. Stops at the first
/// result that is not 0 and returns it.
template <typename Set> int each_setting(const char *option, Set set) {
    if (starts(option, "lowerdir=")) {
        int result = 0;
        each_lower(option, [&](const char *name) {
            if (result == 0) result = set("lowerdir+", name);
        });
        return result;
    }
    const char *equals = strchr(option, '=');
    if (!equals) return set(option, static_cast<const char *>(nullptr));
    char key[256];
    const size_t length = static_cast<size_t>(equals - option) < sizeof key - 1
                              ? static_cast<size_t>(equals - option)
                              : sizeof key - 1;
    memcpy(key, option, length);
    key[length] = 0;
    return set(static_cast<const char *>(key), equals + 1);
}

/// mount(2)'s data, page by page: the first for the mount, each further one for a remount.
struct Pages {
    char data[kPage];
    char folder[kPage]; // to be the working directory; "" when the names are absolute

    /// `at(i)` is option i of `count`.
    template <typename At> void begin(unsigned count, At at) {
        next_ = 0;
        cut_ = 0;
        begun_ = false;
        folder[0] = 0;
        bool any = false;
        for (unsigned i = 0; i < count; i++)
            each_directory(at(i), [&](const char *name) { share(name, any); });
        folder[cut_] = 0;
    }
    /// False when there is nothing left, or with `too_long` set when something fits no page.
    template <typename At> bool fill(unsigned count, At at, bool &too_long) {
        const bool first = !begun_;
        begun_ = true;
        size_ = 0;
        data[0] = 0;
        too_long = false;
        if (next_ >= count) return first; // a mount needs no options
        if (first) {                      // the lower directories belong together
            bool fits = true;
            const char *separator = "lowerdir=";
            for (unsigned i = 0; i < count; i++)
                each_lower(at(i), [&](const char *name) {
                    fits = fits && add(separator) && add_name(name);
                    separator = ":";
                });
            if (!fits) return (too_long = true, false);
        }
        for (; next_ < count; next_++) {
            const char *option = at(next_);
            if (starts(option, "lowerdir=") || starts(option, "lowerdir+=")) continue;
            const size_t before = size_;
            const char *equals = strchr(option, '=');
            const bool relative = cut_ > 0 && equals && is_own(option);
            const bool fits = (size_ == 0 || add(",")) &&
                              (relative ? add(option, static_cast<size_t>(equals - option) + 1) &&
                                              add(equals + 1 + cut_ + 1)
                                        : add(option));
            if (fits) continue;
            data[size_ = before] = 0;
            // Only branches can follow later, and at least one must fit.
            if (!starts(option, "append:") || before == 0) return (too_long = true, false);
            return true;
        }
        return size_ > 0 || first;
    }

  private:
    static bool is_own(const char *option) {
        return starts(option, "upperdir=") || starts(option, "workdir=");
    }
    template <typename Use> static void each_directory(const char *option, Use use) {
        each_lower(option, use);
        if (is_own(option)) use(strchr(option, '=') + 1);
    }
    /// Narrows the folder to what it shares with the folder of `name`.
    void share(const char *name, bool &any) {
        const char *slash = strrchr(name, '/');
        const size_t length = slash ? static_cast<size_t>(slash - name) : 0;
        if (!any) {
            any = true;
            cut_ = length < kPage ? length : 0;
            memcpy(folder, name, cut_);
            return;
        }
        size_t n = 0;
        while (n < cut_ && name[n] == folder[n])
            n++;
        if (n < cut_ || name[n] != '/')
            while (n > 0 && (n >= cut_ || folder[n] != '/'))
                n--;
        cut_ = n;
    }
    bool add(const char *text, size_t n) {
        if (size_ + n >= kPage - 1) return false;
        memcpy(data + size_, text, n);
        data[size_ += n] = 0;
        return true;
    }
    bool add(const char *text) { return add(text, strlen(text)); }
    bool add_name(const char *name) {
        for (const char *p = name + (cut_ ? cut_ + 1 : 0); *p; p++)
            if (((*p == ':' || *p == ',' || *p == '\\') && !add("\\")) || !add(p, 1)) return false;
        return true;
    }

    bool begun_ = false;
    unsigned next_ = 0;
    size_t cut_ = 0, size_ = 0;
};

} // namespace gantry::mount_options
