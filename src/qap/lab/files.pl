# files.pl PORT: look at files for the other end of a port. Lines in: "read PATH", "clear PATH",
# "names FOLDER" or "links FOLDER", which says what links there refer to. Each is answered by
# the size of what follows in a line of its own, or "-" and why not.
use strict;
use warnings;

sub content {
    my ($path) = @_;
    open my $file, '<', $path or die "$path: $!\n";
    my $text = '';
    while (1) {
        my $count = sysread $file, $text, 65536, length $text;
        defined $count or die "$path: $!\n";
        return $text if !$count;
    }
}

sub names {
    my ($folder) = @_;
    opendir my $open, $folder or die "$folder: $!\n";
    return grep { !/^\.\.?$/ } readdir $open;
}

my %does = (
    read  => \&content,
    clear => sub { open my $file, '>', $_[0] or die "$_[0]: $!\n"; '' },
    names => sub { join '', map { "$_\n" } names $_[0] },
    links => sub { my ($at) = @_; join '', map { (readlink("$at/$_") // 'gone') . "\n" } names $at },
);

open my $port, '+<', $ARGV[0] or die "$ARGV[0]: $!\n";
while (my $line = <$port>) {
    chomp $line;
    my ($what, $path) = split / /, $line, 2;
    my $answer = eval { $does{$what}->($path) };
    $answer = defined $answer ? length($answer) . "\n$answer" : "- $@";
    while (length $answer) {
        my $count = syswrite $port, $answer;
        defined $count or die "$ARGV[0]: $!\n";
        substr($answer, 0, $count) = '';
    }
}
