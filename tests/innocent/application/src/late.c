/* The constructor of a static library that is linked last, as C++ programs are full of. */

static int ready;
static int saw_flag;
static int saw_whole = 1;

__attribute__((constructor)) static void construct(int argc, char **argv) {
    static const char flag[] = "--procession-worker=";
    ready = 4711;
    for (int n = 0; n < argc; n++)
        if (!argv[n])
            saw_whole = 0;
    if (argc > 1 && argv[1]) {
        int at = 0;
        while (flag[at] != 0 && argv[1][at] == flag[at])
            at++;
        saw_flag = flag[at] == 0;
    }
}

int late_ready(void) { return ready; }
int late_saw_flag(void) { return saw_flag; }
/* Were there as many arguments as it was told? */
int late_saw_whole(void) { return saw_whole; }
