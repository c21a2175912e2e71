/* The version of the whole suite, once. */
#ifndef VICINAL_BASE_VERSION_H
#define VICINAL_BASE_VERSION_H

#define VICINAL_VERSION "0.1.0"

#endif
