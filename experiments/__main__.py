"""List the studies: what each claims and the minutes of its default run on two CPU cores."""

from experiments.study import studies


def main() -> None:
    """Print one line per study."""
    found = studies().values()
    width = max(len(study.name) for study in found)
    print("python -m experiments.NAME [--help]; minutes are of two CPU cores\n")
    for study in found:
        print(f"{study.name:<{width}}  {study.minutes:>3} min  {study.about}")


if __name__ == "__main__":
    main()
